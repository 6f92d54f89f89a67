"""Expressions and messages that look for trouble, each with the oracle's outcome, one JSON object a line.

{"expression": ..., "messages": [{name: value, ...}, ...], "expected": [outcome a message] or "PARSE_ERROR"}

What is printed follows from the arguments alone. Stops once that many pairs of expression and message are out; a refused
expression counts as one.
"""

import argparse
import json
import random
import sys
import unicodedata

from sql_oracle import DIGIT_RUNS, PARSE_ERROR, Expression, ParseError

# From another source than the oracle's list, so that a run missing there is noticed.
DECIMAL_DIGITS = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Nd"]

# Nesting that every implementation has to take (section 2); deeper text is not generated.
DEPTH_MAX = 100

NAMES = ["a", "b", "c", "price", "A", "_x$1", "$", "TAGS", "KEYS", "now", "LIKE"]
NAME_WEIGHTS = [12, 12, 8, 4, 2, 2, 1, 5, 3, 1, 1]

INTEGERS = [0, 1, 2, 5, 7, 10, 16, 100, 2147483646, 2147483647, 2147483648, 2147483649, 4294967295, 4294967296, 9999999999,
            9007199254740991, 9007199254740992, 9007199254740993, 9007199254740995, 9223372036854774784, 9223372036854775295,
            9223372036854775296, 9223372036854775806, 9223372036854775807]

FLOATS = ["1.0", "2.0", ".5", "5.", "1e3", "1E-3", "2.5e+2", "007.5", "0.1", "0.30000000000000004", "16.0", "1.e1", "00e1",
          "0.1e1", "2147483647.0", "2147483648.0", "4294967296.0", "9007199254740992.0", "9007199254740993.0",
          "9007199254740992.9999999999999999999", "9007199254740993.00000000000000000000000000000001", "9007199254740994.0",
          "9223372036854775807.0", "9223372036854775808.0", "9223372036854774784.0", "1e22", "1e23", "8.5e22", "1e308",
          "1.7976931348623157e308", "1.7976931348623158e308", "1.797693134862315807e308", "4.9e-324", "2.5e-324",
          "2.4703282292062328e-324", "2.2250738585072011e-308", "2.2250738585072014e-308",
          "1.00000000000000011102230246251565404236316680908203125",
          "1.00000000000000011102230246251565404236316680908203124", "0.5000000000000000277555756156289135105907917022705078125",
          "179769313486231570000000000000000000000.0e270", "0." + "0" * 320 + "5", "1" + "0" * 300 + "."]

BAD_NUMBERS = ["0.0", "0.", "0e5", "1e400", "1E309", "1.7976931348623159e308", "2.4e-324", "1e-400", "007", "00", "0L", "0l",
               "5.0L", "1.5e", "1e", "1e+", "5f", "0x10", "1_000", "9223372036854775808", "99999999999999999999", "1.2.3", "."]

STRINGS = ["", "x", "1", "abc", "ab", "bc", "hz", "bj", "true", "TRUE", "false", "it's", "'", "''", "%", "h%", "a\\n", "--", "/*",
           "中文", "é", "e\u0301", "red", " red", "5", "07", "𝟐", "\n", "\t", "\u00a0", "a\nb", "NaN", "k1", "k1 k2", "\"", "\0"]

DOUBLE_TEXTS = ["NaN", "+NaN", "-NaN", "nan", "NaNf", "Infinity", "-Infinity", "+Infinity", "infinity", "inf", "Infinityd", "0.0",
                "-0.0", "-0", "0", "+0", "-0e5", "0x0p0", "-0x0.0p5", "0x1p4", "0X1P4", "0x1.8p3", "0x.8p1", "0x1.p0", "0x.p0",
                "0xp4", "0x1", "0x1.8", "0x1p", "0x1p4f", "0x1p4D", "0xAp0", "0xFp-1", "0xfd", "0x1p1024", "-0x1p1024", "0x1p-1075",
                "0x1.000001p-1075", "0x1.fffffffffffff8p1023", "0x1.fffffffffffff7p1023", "0x1.00000000000008p0",
                "0x1.00000000000018p0", "0x1.000000000000080001p0", "0x20000000000001p0", "0x1p99999999999999999999",
                "0x1p-99999999999999999999", "0x0p99999999999999999999", "0x000000000000000000000000000001p0",
                "0x1" + "0" * 40 + "p-160", "0x." + "0" * 40 + "1p164", "1e999", "-1e999", "1e-999", "-1e-999", "1e99999999999999999999",
                "0e99999999999999999999", "1e-99999999999999999999", "1d", "1D", "1f", "1F", "1L", "1df", "1.", ".5", ".", "", "+", "-",
                "e5", "1e", "1e+", "1e+5", "1E5", "+1.5e-3d", "1 d", "1,5", "1_0", "--1", "+-1", "1.5.2", "1e5.0", "  2  ", "\t2\n",
                "\x002\x1f", "\x0b2\x0c", "\u00a02", "2\u00a0", "\u20032", "\u00852", "\x7f2", "１.5", "1.５", "1e５", "0x１p0", "٣",
                "1e1_0", "0b1", "0o7", "+ 1", "1e 5", "9007199254740993", "9007199254740992.5", "9007199254740993.000000000001",
                "1.7976931348623158e308", "1.7976931348623159e308", "4.9e-324", "2.4703282292062327e-324",
                "2.4703282292062328e-324", "2.2250738585072011e-308", "0." + "0" * 400 + "1e401", "1" + "0" * 400 + "e-400",
                "6.631236846766476e-316", "8.98846567431158e307", "1.448997445238699", "0.1", "1e23", "8.5e22"]

BOOLEAN_TEXTS = ["true", "TRUE", "True", "tRuE", " true", "true ", "yes", "1", "false", "t", "truе", "trueſ", "ｔｒｕｅ", "tru\u212a", ""]

INTEGER_TEXTS = ["+", "-", "", "+-1", "--1", "1 ", " 1", "1L", "1.0", "1e1", "0x1", "1_0", "+0", "-0", "00000000000000000000000000007",
                 "-00000000000000000002147483648", "000000000000000000009223372036854775807", "99999999999999999999999999",
                 "18446744073709551617", "4294967297", "-4294967295", "36893488147419103233", "𝟐", "²", "½", "Ⅷ", "一", "①", "−1", "＋1",
                 "1\u0301", "1\u200b", "\ufeff1", "+１", "-٣", "१२३", "1٣１", "\U0001d7d0", "\U000104a2", "\U00011066", "\U0001e952"]

BLANKS = [" ", " ", " ", " ", "  ", "\t", "\n", "\r", "\f", "\r\n", "/**/", "/***/", "/* x */", "/*'*/", "/*--*/", "--\n", "-- it's\r",
          "--/*\r\n", " --- x\n", "/*/ */", "/*\n*/", "/* ü𝟐 */"]
BAD_BLANKS = ["\x0b", "\u00a0", "\u2003", "\x85", "--", "/*", "*/", "/*/", ";", "%", "\\", "\"", "\0", "!", "\ufeff"]
FRAGMENTS = ["NOT", "AND", "OR", "=", "<>", "<", ">=", "IS NULL", "IS NOT NULL", "IN", "('x')", "BETWEEN", "(", ")", ",", "+", "-", "--",
             "'", "''", "TRUE", "NULL", "CONTAINS", "CONTAINS ''", "LIKE", "IS TRUE", "==", "!=", "*", "/", ".", "a.b", "a-b", "1", "'x'",
             "007", "1.5e", "\"x\"", "ENDSWITH b", "IN ()", "IN (1)", "e5", "L", "ſ", "ü"]


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)
        # What the expression under way compares with, so that messages come near it.
        self.near = []

    def pick(self, choices):
        return choices[int(self.random.random() * len(choices))]

    def chance(self, probability):
        return self.random.random() < probability

    # ---- Expressions, as lists of tokens ----

    def name(self):
        return self.random.choices(NAMES, NAME_WEIGHTS)[0]

    def keyword(self, word):
        kind = self.random.random()
        if kind < 0.6:
            return word
        if kind < 0.85:
            return word.lower()
        return "".join(letter.lower() if self.chance(0.5) else letter for letter in word)

    def keywords(self, words):
        return [self.keyword(word) for word in words.split()]

    def integer(self):
        kind = self.random.random()
        if kind < 0.35:
            value = self.pick([0, 1, 2, 5, 7, 10])
        elif kind < 0.8:
            value = max(0, self.pick(INTEGERS) + self.pick([-1, 0, 0, 0, 1]))
        else:
            value = self.random.getrandbits(self.pick([4, 8, 16, 31, 32, 33, 53, 54, 62, 63]))
        self.near.append(str(value))
        return str(value) + (self.pick(["l", "L"]) if value > 0 and self.chance(0.15) else "")

    def float(self):
        if self.chance(0.7):
            text = self.pick(FLOATS)
        else:
            text = f"{self.random.getrandbits(self.pick([4, 20, 53, 63]))}.{self.random.getrandbits(self.pick([4, 30, 60]))}"
            if self.chance(0.5):
                text += f"{self.pick('eE')}{self.pick(['', '+', '-'])}{self.pick([0, 1, 5, 15, 22, 23, 300])}"
        self.near.append(text)
        return text

    def number(self):
        if self.chance(0.015):
            return self.pick(BAD_NUMBERS)
        return self.integer() if self.chance(0.6) else self.float()

    def string(self):
        text = self.pick(STRINGS)
        if self.chance(0.1):
            text += self.pick(STRINGS)
        self.near.append(text)
        return "'" + text.replace("'", "''") + "'"

    def signed(self, tokens):
        while self.chance(0.12):
            tokens = [self.pick(["+", "-", "-"])] + tokens
        return ["(", *tokens, ")"] if self.chance(0.06) else tokens

    def orderable(self):
        """An operand of an ordering or BETWEEN."""
        kind = self.random.random()
        if kind < 0.5:
            return self.signed([self.name()]) if self.chance(0.3) else [self.name()]
        if kind < 0.95:
            return self.signed([self.number()])
        if kind < 0.98:
            return ["-", "(", *self.condition(1), ")"]
        return self.anything(1)

    def anything(self, budget):
        """An operand of an equality."""
        kind = self.random.random()
        if kind < 0.4:
            return [self.name()]
        if kind < 0.6:
            return self.signed([self.number()])
        if kind < 0.75:
            return [self.string()]
        if kind < 0.85:
            return [self.keyword(self.pick(["TRUE", "FALSE"]))]
        if kind < 0.87:
            return [self.keyword("NULL")]
        if kind < 0.9:
            return ["-", *self.anything(0)]
        return ["(", *self.condition(budget - 1), ")"]

    def comparison(self):
        kind = self.random.random()
        negated = self.keywords("NOT") if self.chance(0.4) else []
        if kind < 0.3:
            left = [self.name()] if self.chance(0.6) else self.anything(1)
            return left + [self.pick(["=", "<>"])] + self.anything(1)
        if kind < 0.5:
            return self.orderable() + [self.pick(["<", "<=", ">", ">="])] + self.orderable()
        if kind < 0.65:
            return self.between(negated)
        if kind < 0.77:
            elements = [self.string() for _ in range(self.pick([1, 1, 2, 3, 8]))]
            listed = [token for element in elements for token in (element, ",")][:-1]
            return ["+"] * self.chance(0.05) + [self.name(), *negated, *self.keywords("IN"), "(", *listed, ")"]
        if kind < 0.9:
            left = [self.name()] if self.chance(0.8) else ["(", *self.anything(1), ")"]
            match = left + negated + self.keywords(self.pick(["CONTAINS", "STARTSWITH", "ENDSWITH"])) + [self.string()]
            return match if self.chance(0.95) else match + self.keywords("CONTAINS") + [self.string()]
        left = [self.name()] if self.chance(0.6) else self.anything(1)
        return left + self.keywords(self.pick(["IS NULL", "IS NOT NULL"]))

    def between(self, negated):
        low, high = self.orderable(), self.orderable()
        if not negated and len(low) == len(high) == 1 and self.chance(0.9):
            # Most bounds are put the right way round, or nearly all of these would be refused by S7.
            try:
                low, high = sorted([low, high], key=lambda tokens: float(tokens[0].rstrip("lL")))
            except ValueError:
                pass
        operand = [self.name()] if self.chance(0.7) else self.orderable()
        return operand + negated + self.keywords("BETWEEN") + low + self.keywords("AND") + high

    def condition(self, budget):
        kind = self.random.random()
        if budget <= 0 or kind < 0.3:
            kind = self.random.random()
            if kind < 0.88:
                return self.comparison()
            return [self.name()] if kind < 0.94 else [self.keyword(self.pick(["TRUE", "FALSE", "NULL"]))]
        if kind < 0.65:
            operands = self.pick([2, 2, 2, 3, 4])
            word = self.pick(["AND", "OR"])
            tokens = self.condition(budget - 1)
            for _ in range(operands - 1):
                tokens = tokens + [self.keyword(word if self.chance(0.8) else self.pick(["AND", "OR"]))] + self.condition(budget - 2)
            return tokens
        if kind < 0.8:
            inner = self.condition(budget - 1)
            return ["NOT", "(", *inner, ")"] if self.chance(0.8) else ["NOT", *inner]
        if kind < 0.9:
            return ["(", *self.condition(budget - 1), ")"]
        tail = self.pick([["=", "TRUE"], ["<>", "FALSE"], ["IS", "NULL"], ["IS", "NOT", "NULL"], ["=", self.name()]])
        return ["(", *self.condition(budget - 1), ")", *tail] if self.chance(0.6) else self.comparison() + tail

    def deep(self):
        """Nested nearly as deep as must be accepted."""
        tokens = self.comparison()
        for _ in range(self.random.randrange(20, 55)):
            kind = self.random.random()
            if kind < 0.4:
                tokens = ["NOT", "(", *tokens, ")"]
            elif kind < 0.5:
                tokens = ["(", *tokens, ")", *self.pick([["IS", "NULL"], ["=", "TRUE"], ["OR", self.name()], ["AND", "TRUE"]])]
            elif kind < 0.55:
                tokens = ["-", "(", *tokens, ")", *self.pick([["<", "1"], ["BETWEEN", "1", "AND", "a"], ["=", "b"]])]
            else:
                tokens = ["(", *tokens, ")"]
        return tokens

    def chain(self):
        """A long run of one operator."""
        count = self.random.randrange(20, 150)
        kind = self.random.random()
        if kind < 0.2:
            return self.comparison() + ["=", "TRUE"] * count
        if kind < 0.3:
            return self.comparison() + ["IS", "NULL"] * count
        word = self.pick(["AND", "OR"])
        # A few operands in turns, so that the outcome is rarely settled by the first.
        operands = [self.pick([self.comparison(), [self.name()], ["NULL"]]) for _ in range(4)]
        tokens = self.comparison()
        for place in range(count):
            tokens = tokens + [word, *operands[place % 4]]
        return tokens

    def hinted(self):
        """Of the shapes that a pruning hint is made from."""
        name = self.pick(["TAGS", "TAGS", "KEYS", "a"])
        test = self.pick([[name, "=", self.string()], [self.string(), "=", name], [name, "IN", "(", self.string(), ",", self.string(), ")"],
                          [name, "IS", "NOT", "NULL"], [name, "<>", self.string()], [name, "CONTAINS", self.string()],
                          [name, ">", self.number()], [name, "BETWEEN", "1", "AND", "5"], [name, "=", self.name()], [name]])
        rest = self.condition(1)
        return self.pick([test, test + ["AND", *rest], ["(", *rest, ")", "AND", *test], test + ["OR", *rest],
                          test + ["OR", name, "=", self.string()], ["(", *test, ")", "=", "TRUE"], ["NOT", "(", *test, ")"],
                          ["(", *test, ")", "IS", "NULL"], ["(", *test, "OR", name, "=", "'x'", ")", "AND", *rest]])

    def spaced(self, tokens):
        """The text of tokens, with blanks where they are needed and where they are not."""
        plain = self.chance(0.7)
        text = ""
        for token in tokens:
            if plain:
                text += " " if text else ""
            elif self.chance(0.25):
                text += self.pick(BLANKS)
            elif text and (text[-1].isalnum() or text[-1] in "_$.'") and (token[0].isalnum() or token[0] in "_$.'"):
                # Sometimes two tokens run together on purpose.
                text += "" if self.chance(0.1) else " "
            text += token
        return text + (self.pick(BLANKS) if self.chance(0.1) else "")

    def mutated(self, text):
        for _ in range(self.pick([1, 1, 1, 2, 4])):
            at = self.random.randrange(len(text) + 1)
            kind = self.random.random()
            if kind < 0.3:
                text = text[:at] + text[at + self.pick([1, 1, 2, 5]):]
            elif kind < 0.6:
                text = text[:at] + self.pick([" ", ""]) + self.pick(FRAGMENTS) + self.pick([" ", ""]) + text[at:]
            elif kind < 0.7:
                text = text[:at] + self.pick(BAD_BLANKS + BLANKS) + text[at:]
            elif kind < 0.8:
                text = text[:at] + self.pick(BAD_NUMBERS) + text[at:]
            elif kind < 0.9:
                other = self.random.randrange(len(text) + 1)
                text = text[:at] + text[min(at, other):max(at, other)] + text[at:]
            else:
                text = text[:at]
        return text

    def expression(self):
        self.near = []
        kind = self.random.random()
        if kind < 0.02:
            tokens = self.deep()
        elif kind < 0.03:
            tokens = self.chain()
        elif kind < 0.15:
            tokens = self.hinted()
        elif kind < 0.45:
            tokens = self.comparison()
        else:
            tokens = self.condition(self.pick([1, 2, 3, 4]))
        text = self.spaced(tokens)
        return self.mutated(text) if self.chance(0.15) else text

    # ---- Messages ----

    def digits(self, text):
        """The same number in digits of other scripts."""
        runs = [int(self.pick(DIGIT_RUNS), 16) for _ in range(self.pick([1, 1, 3]))]
        return "".join(chr(self.pick(runs) + int(character)) if character in "0123456789" else character for character in text)

    def integer_text(self):
        kind = self.random.random()
        if kind < 0.2:
            return self.pick(INTEGER_TEXTS)
        value = self.pick(INTEGERS) + self.pick([-1, 0, 0, 1]) if kind < 0.7 else self.random.getrandbits(self.pick([3, 31, 33, 63]))
        text = self.pick(["", "", "-", "+"]) + self.pick(["", "", "0", "000"]) + str(value)
        if self.chance(0.15):
            text = self.digits(text)
            if self.chance(0.2):
                # Right before and after a run of digits there are none.
                text += chr(int(self.pick(DIGIT_RUNS), 16) + self.pick([-1, 10]))
        return text

    def double_text(self):
        kind = self.random.random()
        if kind < 0.6:
            text = self.pick(DOUBLE_TEXTS)
        elif kind < 0.75:
            mantissa = f"{self.random.getrandbits(self.pick([4, 53, 60])):x}"
            at = self.random.randrange(len(mantissa) + 1)
            mantissa = mantissa[:at] + "." + mantissa[at:] if self.chance(0.6) else mantissa
            text = f"0x{mantissa}p{self.pick([0, 1, -1, 4, 60, -60, 970, 1000, -1022, -1074, -1080])}"
        else:
            text = f"{self.random.getrandbits(self.pick([4, 53, 63]))}.{self.random.getrandbits(self.pick([1, 20, 63]))}"
            text += self.pick(["", "", f"e{self.random.randrange(-330, 310)}", "E5", "f", "d"])
        if self.chance(0.15):
            text = self.pick(["-", "+"]) + text
        if self.chance(0.1):
            text = self.pick([" ", "\t", "\n\x00", "\x1f", "\u00a0", "\u3000"]) + text
        if self.chance(0.1):
            text += self.pick([" ", "\r\n", "\x01", "f", "d", "L", "\u00a0", "\x7f"])
        return text

    def value(self):
        kind = self.random.random()
        if self.near and kind < 0.35:
            near = self.pick(self.near)
            return self.pick([near, near, near, near + self.pick(["x", "0", " ", "d", "e0", ".0"]), "x" + near, near[1:], near[:-1],
                              "-" + near, "+" + near, self.digits(near), near.upper(), " " + near])
        if kind < 0.45:
            return self.pick(["1", "2", "5", "7", "10", "-6", "0", "3"])
        if kind < 0.48:
            # One digit, or a neighbour of the digits, of any script: what an Int32 is most sensitive to.
            return chr(self.pick(DECIMAL_DIGITS) + self.pick([-1, 0, 0, 0, 1]))
        if kind < 0.5:
            return self.pick(["0.0", "-0.0", "0", "-0", "NaN", "-NaN", "-0x0p0", "1e-999", "-1e-999"])
        if kind < 0.65:
            return self.integer_text()
        if kind < 0.8:
            return self.double_text()
        if kind < 0.88:
            return self.pick(BOOLEAN_TEXTS)
        return self.pick(STRINGS) + (self.pick(STRINGS) if self.chance(0.2) else "")

    def message(self, names):
        present = self.pick([0.5, 0.85, 0.95])
        message = {name: self.value() for name in names if self.random.random() < present}
        if self.chance(0.1):
            message[self.name()] = self.value()
        return message


def pairs(seed, wanted, messages_per_expression):
    """What is printed, object by object."""
    generator, made = Generator(seed), 0
    while made < wanted:
        text = generator.expression()
        try:
            expression = Expression(text)
        except ParseError:
            made += 1
            yield {"expression": text, "messages": [], "expected": PARSE_ERROR}
            continue
        if expression.depth > DEPTH_MAX:
            continue
        names = sorted(expression.names)
        count = min(messages_per_expression, wanted - made) if names else 1
        messages = [generator.message(names) for _ in range(count)]
        made += count
        yield {"expression": text, "messages": messages, "expected": [expression.outcome(message) for message in messages]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seed", type=int, required=True, help="what everything follows from")
    arguments.add_argument("--pairs", type=int, required=True, help="pairs of expression and message")
    arguments.add_argument("--messages", type=int, default=50, help="messages for each expression")
    given = arguments.parse_args()
    try:
        for made in pairs(given.seed, given.pairs, given.messages):
            sys.stdout.write(json.dumps(made) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough; nothing is left to flush.
        sys.stderr.close()


if __name__ == "__main__":
    main()
