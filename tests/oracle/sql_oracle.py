"""The SQL filter language, written a second time from its definition alone, plainly: what the plugin is compared with.

`compile_expression(text)` gives a function from a message's properties to TRUE, FALSE, NULL or EVAL_ERROR, or raises
ParseError. As a program, `sql_oracle.py CASES.tsv` checks files of cases. The numbers in comments (S5, 4.2) are those of
the definition.
"""

import re
import sys
from math import copysign

TRUE, FALSE, NULL = "TRUE", "FALSE", "NULL"
EVAL_ERROR, PARSE_ERROR = "EVAL_ERROR", "PARSE_ERROR"

if sys.version_info < (3, 11):
    sys.exit(f"the SQL oracle needs Python 3.11 or later, this is {sys.version.split()[0]}: install a newer python3")

# From 3.11 on, calls between Python functions take no C stack, so a high limit is safe; long chains and deep nesting pass.
sys.setrecursionlimit(1_000_000)


class ParseError(Exception):
    """The text is no expression of the language."""


class EvalError(Exception):
    """A conversion that fails, or a Boolean on the left of a String."""


# ---- 1 Lexical rules ----

KEYWORDS = frozenset("NOT AND OR BETWEEN IN TRUE FALSE NULL IS CONTAINS STARTSWITH ENDSWITH".split())
BLANK = re.compile(r"(?:[ \t\n\r\f]+|--[^\n\r]*[\n\r]|/\*(?s:.*?)\*/)")
WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
INTEGER = re.compile(r"0|[1-9][0-9]*[lL]?")
FLOAT = re.compile(r"[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+")
STRING = re.compile(r"'(?:[^']|'')*'")
SYMBOL = re.compile(r"<>|<=|>=|[=<>(),+-]")


def number_token(text):
    """An Int32, Int64 or Double token of this text."""
    if re.fullmatch(INTEGER, text):
        digits = text.rstrip("lL")
        # Without leading zeros, 20 digits are too many already, and Python refuses thousands of them.
        value = int(digits) if len(digits) < 20 else 1 << 63
        if value > 9223372036854775807:
            raise ParseError("S9")
        return ("int32" if value <= 2147483647 else "int64", value)
    value = float(text)
    if value == 0.0 or value == float("inf"):
        raise ParseError("S10")
    return ("double", value)


def tokens_of(text):
    """Tokens as pairs of kind and value; the last is of kind "end"."""
    tokens, at = [], 0
    while at < len(text):
        blank = BLANK.match(text, at)
        if blank:
            at = blank.end()
            continue
        if text.startswith("/*", at):
            raise ParseError("unclosed comment")
        numbers = [match.group() for match in (INTEGER.match(text, at), FLOAT.match(text, at)) if match]
        word, string, symbol = WORD.match(text, at), STRING.match(text, at), SYMBOL.match(text, at)
        if numbers:
            longest = max(numbers, key=len)
            tokens.append(number_token(longest))
            at += len(longest)
        elif word:
            upper = word.group().upper()
            tokens.append(("keyword", upper) if upper in KEYWORDS else ("name", word.group()))
            at = word.end()
        elif string:
            tokens.append(("string", string.group()[1:-1].replace("''", "'")))
            at = string.end()
        elif symbol:
            tokens.append(("symbol", symbol.group()))
            at = symbol.end()
        else:
            raise ParseError(f"character {text[at]!r}")
    tokens.append(("end", None))
    return tokens


# ---- 2 Grammar: a node is a pair of kind and function; literals carry their value, properties their name ----
#
# Kinds: "string" "int32" "int64" "double" "TRUE" "FALSE" "NULL" "property" "negation" "test". A function takes the
# properties. Values: str, True, False, None, and numbers as pairs like ("int32", 5).

NUMBERS = frozenset(["int32", "int64", "double"])
CONDITIONS = frozenset(["test", "property", "TRUE", "FALSE", "NULL"])
UNORDERED = frozenset(["string", "TRUE", "FALSE", "NULL", "test"])
MATCHES = {"CONTAINS": str.__contains__, "STARTSWITH": str.startswith, "ENDSWITH": str.endswith}


class Node:
    __slots__ = ("kind", "run", "value")

    def __init__(self, kind, run, value=None):
        self.kind, self.run, self.value = kind, run, value


def constant(kind, value):
    return Node(kind, lambda properties: value, value)


class Parser:
    def __init__(self, text):
        self.tokens, self.at = tokens_of(text), 0
        self.depth = self.depth_max = 0
        self.names = set()

    def take(self, kind, *values):
        """The value of the next token if it is one of these."""
        found, value = self.tokens[self.at]
        if found == kind and (not values or value in values):
            self.at += 1
            return value
        return None

    def need(self, kind, value):
        if self.take(kind, value) is None:
            raise ParseError(f"{value} expected")

    def string(self):
        kind, value = self.tokens[self.at]
        if kind != "string":
            raise ParseError("a string expected")
        self.at += 1
        return value

    def whole(self):
        node = self.disjunction()
        if self.tokens[self.at][0] != "end":
            raise ParseError("text after the expression")
        if node.kind not in CONDITIONS:
            raise ParseError("S1")
        return node

    def disjunction(self):
        return self.chain("OR", self.conjunction, either)

    def conjunction(self):
        return self.chain("AND", self.equality, both)

    def chain(self, keyword, operand, combined):
        nodes = [operand()]
        while self.take("keyword", keyword):
            nodes.append(operand())
        if len(nodes) == 1:
            return nodes[0]
        if any(node.kind not in CONDITIONS for node in nodes):
            raise ParseError("S2")
        return Node("test", combined([node.run for node in nodes]))

    def equality(self):
        left = self.comparison()
        while True:
            operator = self.take("symbol", "=", "<>")
            if operator:
                right = self.comparison()
                if "NULL" in (left.kind, right.kind):
                    raise ParseError("S3")
                if left.kind in ("TRUE", "FALSE") and (right.kind in NUMBERS or right.kind == "string"):
                    raise ParseError("S4")
                left = Node("test", equality(left.run, right.run, operator == "="))
            elif self.take("keyword", "IS"):
                negated = self.take("keyword", "NOT") is not None
                self.need("keyword", "NULL")
                left = Node("test", is_null(left.run, negated))
            else:
                return left

    def comparison(self):
        left = self.unary()
        while True:
            operator = self.take("symbol", "<", "<=", ">", ">=")
            if operator:
                right = self.unary()
                if left.kind in UNORDERED or right.kind in UNORDERED:
                    raise ParseError("S5")
                left = Node("test", ordering(left.run, operator, right.run))
                continue
            negated = self.take("keyword", "NOT") is not None
            operator = self.take("keyword", *MATCHES, "BETWEEN", "IN")
            if operator is None:
                if negated:
                    raise ParseError("NOT in operator position")
                return left
            if operator == "BETWEEN":
                left = self.between(left, negated)
            elif operator == "IN":
                left = self.membership(left, negated)
            else:
                left = Node("test", text_match(left.run, MATCHES[operator], self.string(), negated))

    def between(self, operand, negated):
        low = self.unary()
        self.need("keyword", "AND")
        high = self.unary()
        if any(node.kind in UNORDERED for node in (operand, low, high)):
            raise ParseError("S6")
        if not negated and low.kind in NUMBERS and high.kind in NUMBERS and compare(low.value, high.value) > 0:
            raise ParseError("S7")
        return Node("test", between(operand.run, low.run, high.run, negated))

    def membership(self, operand, negated):
        self.need("symbol", "(")
        elements = [self.string()]
        while self.take("symbol", ","):
            elements.append(self.string())
        self.need("symbol", ")")
        if operand.kind != "property":
            raise ParseError("S8")
        return Node("test", membership(operand.value, elements, negated))

    def unary(self):
        symbol = self.take("symbol", "+", "-")
        if symbol is None and self.take("keyword", "NOT"):
            symbol = "NOT"
        if symbol is None:
            return self.primary()
        self.enter()
        operand = self.unary()
        self.depth -= 1
        if symbol == "-":
            return Node("negation", negation(operand.run))
        if symbol == "NOT":
            if operand.kind not in CONDITIONS:
                raise ParseError("S2")
            return Node("test", inverse(operand.run))
        return operand

    def primary(self):
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind in NUMBERS:
            return constant(kind, (kind, value))
        if kind == "string":
            return constant(kind, value)
        if kind == "name":
            self.names.add(value)
            return Node("property", lambda properties: properties.get(value), value)
        if kind == "keyword" and value in ("TRUE", "FALSE", "NULL"):
            return constant(value, {"TRUE": True, "FALSE": False, "NULL": None}[value])
        if (kind, value) == ("symbol", "("):
            self.enter()
            node = self.disjunction()
            self.need("symbol", ")")
            self.depth -= 1
            return node
        raise ParseError("an operand expected")

    def enter(self):
        self.depth += 1
        self.depth_max = max(self.depth_max, self.depth)


# ---- 4 Values ----

DIGIT_RUNS = """0030 0660 06F0 07C0 0966 09E6 0A66 0AE6 0B66 0BE6 0C66 0CE6 0D66 0DE6 0E50 0ED0 0F20 1040 1090 17E0 1810
1946 19D0 1A80 1A90 1B50 1BB0 1C40 1C50 A620 A8D0 A900 A9D0 A9F0 AA50 ABF0 FF10""".split()
DIGITS = {chr(int(run, 16) + value): value for run in DIGIT_RUNS for value in range(10)}
TRIMMED = "".join(map(chr, range(0x21)))
DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
HEX = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
SPECIAL = re.compile(r"([+-]?)(NaN|Infinity)")


def to_integer(text, bits):
    body = text[1:] if text[:1] in ("+", "-") else text
    if not body:
        raise EvalError
    value = 0
    for character in body:
        digit = DIGITS.get(character)
        if digit is None:
            raise EvalError
        value = value * 10 + digit
    if text[0] == "-":
        value = -value
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise EvalError
    return value


def to_double(text):
    text = text.strip(TRIMMED)
    special = SPECIAL.fullmatch(text)
    if special:
        return float(special[1] + {"NaN": "nan", "Infinity": "inf"}[special[2]])
    body = text[:-1] if text[-1:] in ("f", "F", "d", "D") else text
    if DECIMAL.fullmatch(body):
        return float(body)
    if HEX.fullmatch(body):
        try:
            return float.fromhex(body)
        except OverflowError:
            return float("-inf") if body[0] == "-" else float("inf")
    raise EvalError


def converted(text, kind):
    """A String as a number of this kind."""
    if kind == "int32":
        return (kind, to_integer(text, 32))
    if kind == "int64":
        return (kind, to_integer(text, 64))
    return (kind, to_double(text))


def to_boolean(text):
    """Only the four ASCII letters count: no other character may be folded into them."""
    return re.fullmatch(r"[tT][rR][uU][eE]", text) is not None


def compare(left, right):
    """Below 0, 0 or above 0, for two numbers (4.3)."""
    (left_kind, left), (right_kind, right) = left, right
    if left_kind != "double" and right_kind != "double":
        return (left > right) - (left < right)
    # From int to float Python rounds to nearest, ties to even.
    left, right = float(left), float(right)
    if left != left or right != right:
        return (left != left) - (right != right)
    if left == 0.0 and right == 0.0:
        left, right = copysign(1.0, left), copysign(1.0, right)
    return (left > right) - (left < right)


# ---- 5 Evaluation ----


def truth(value):
    """A String is FALSE (5.2); numbers never get here."""
    return False if isinstance(value, str) else value


def negation(operand):
    def run(properties):
        value = operand(properties)
        return (value[0], -value[1]) if isinstance(value, tuple) else None

    return run


def inverse(operand):
    def run(properties):
        value = truth(operand(properties))
        return None if value is None else not value

    return run


def both(operands):
    def run(properties):
        outcome = True
        for operand in operands:
            value = truth(operand(properties))
            if value is False:
                return False
            if value is None:
                outcome = None
        return outcome

    return run


def either(operands):
    def run(properties):
        outcome = False
        for operand in operands:
            value = truth(operand(properties))
            if value is True:
                return True
            if value is None:
                outcome = None
        return outcome

    return run


def same(left, right):
    """Whether two values are equal (5.3), None for unknown."""
    if left is None:
        return True if right is None else None
    if right is None:
        return False
    if isinstance(left, bool):
        if isinstance(right, str):
            raise EvalError
        return left is right if isinstance(right, bool) else False
    if isinstance(left, str):
        if isinstance(right, str):
            return left == right
        if isinstance(right, bool):
            return to_boolean(left) is right
        return compare(converted(left, right[0]), right) == 0
    if isinstance(right, bool):
        return False
    if isinstance(right, str):
        right = converted(right, left[0])
    return compare(left, right) == 0


def equality(left, right, wanted):
    def run(properties):
        outcome = same(left(properties), right(properties))
        return None if outcome is None else outcome is wanted

    return run


def in_order(left, operator, right):
    """The ordering of two values that are there (5.4)."""
    if isinstance(left, str) and isinstance(right, str):
        left, right = ("double", to_double(left)), ("double", to_double(right))
    elif isinstance(left, str):
        left = converted(left, right[0])
    elif isinstance(right, str):
        right = converted(right, left[0])
    order = compare(left, right)
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[operator]


def ordering(left, operator, right):
    def run(properties):
        value = left(properties)
        if value is None:
            return None
        other = right(properties)
        return None if other is None else in_order(value, operator, other)

    return run


def between(operand, low, high, negated):
    def run(properties):
        value = operand(properties)

        def same_value(_):
            return value

        # The operand is pure, so that evaluating it once is evaluating it twice.
        if negated:
            return either([ordering(same_value, "<", low), ordering(same_value, ">", high)])(properties)
        return both([ordering(same_value, ">=", low), ordering(same_value, "<=", high)])(properties)

    return run


def membership(name, elements, negated):
    def run(properties):
        value = properties.get(name)
        return None if value is None else (value in elements) is not negated

    return run


def is_null(operand, negated):
    def run(properties):
        return (operand(properties) is None) is not negated

    return run


def text_match(operand, matches, text, negated):
    def run(properties):
        if text == "":
            return False
        value = operand(properties)
        return matches(value, text) is not negated if isinstance(value, str) else False

    return run


# ---- The whole ----


class Expression:
    """A parsed expression: the names of its properties, how deep it is nested, and its outcomes."""

    def __init__(self, text):
        parser = Parser(text)
        self._run = parser.whole().run
        self.names, self.depth = parser.names, parser.depth_max

    def outcome(self, properties):
        try:
            value = truth(self._run(properties))
        except EvalError:
            return EVAL_ERROR
        return NULL if value is None else TRUE if value else FALSE


def result(text, properties):
    """One of the five results."""
    try:
        return Expression(text).outcome(properties)
    except ParseError:
        return PARSE_ERROR


def check(path):
    """Prints what differs in a file of cases; returns how many were looked at and how many differ."""
    failed = 0
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")[1:]
    rows = [line.split("\t") for line in lines if line]
    for number, text, properties, expected in rows:
        pairs = dict(pair.split("=", 1) for pair in properties.split(";") if pair)
        got = result(text.replace("\\n", "\n"), pairs)
        if got != expected:
            failed += 1
            print(f"{path} {number}: {text!r} for {pairs!r}: expected {expected}, got {got}")
    return len(rows), failed


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: sql_oracle.py CASES.tsv...")
    looked_at, failed = map(sum, zip(*map(check, sys.argv[1:])))
    print(f"{looked_at - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
