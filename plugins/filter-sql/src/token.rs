//! Splits an expression into tokens, by the lexical rules of docs/sql.md.

/// Why an expression is refused, and the byte of it where that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// Lower case, what then why, no full stop.
    pub(crate) message: String,
    /// In bytes from the beginning of the expression.
    pub(crate) at: usize,
}

impl ParseError {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        ParseError {
            message: message.into(),
            at,
        }
    }
}

/// The reserved words, in any mixture of upper and lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
}

const KEYWORDS: [(&str, Keyword); 12] = [
    ("NOT", Keyword::Not),
    ("AND", Keyword::And),
    ("OR", Keyword::Or),
    ("BETWEEN", Keyword::Between),
    ("IN", Keyword::In),
    ("TRUE", Keyword::True),
    ("FALSE", Keyword::False),
    ("NULL", Keyword::Null),
    ("IS", Keyword::Is),
    ("CONTAINS", Keyword::Contains),
    ("STARTSWITH", Keyword::StartsWith),
    ("ENDSWITH", Keyword::EndsWith),
];

/// The characters that are tokens by themselves, alone or in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Open,
    Close,
    Comma,
    Plus,
    Minus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind<'a> {
    Keyword(Keyword),
    Identifier(&'a str),
    /// The digits, without the suffix.
    Integer(&'a str),
    Float(&'a str),
    /// What stands between the outer quotes, quotes inside still doubled.
    String(&'a str),
    Symbol(Symbol),
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind<'a>,
    /// Its first byte in the expression.
    pub(crate) at: usize,
    /// Its own text; empty at the end.
    pub(crate) text: &'a str,
}

/// The tokens of a text from left to right.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    /// One past the last line ending of the text: a `--` beyond it cannot begin a comment.
    lines_end: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let lines_end = text.rfind(['\n', '\r']).map_or(0, |at| at + 1);
        Tokens { text, at: 0, lines_end }
    }

    /// The next token; `End` again and again once the text is used up.
    pub(crate) fn next_token(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let at = self.at;
        let rest = &self.text[at..];
        let Some(first) = rest.chars().next() else {
            return Ok(Token {
                kind: TokenKind::End,
                at,
                text: "",
            });
        };
        let (kind, length) = match first {
            'A'..='Z' | 'a'..='z' | '_' | '$' => word(rest),
            '0'..='9' => number(rest),
            '.' if byte_at(rest, 1).is_ascii_digit() => number(rest),
            '\'' => string(rest, at)?,
            _ => symbol(rest).ok_or_else(|| ParseError::new(at, unexpected(first)))?,
        };
        self.at += length;
        Ok(Token {
            kind,
            at,
            text: &rest[..length],
        })
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            let rest = &self.text[self.at..];
            let bytes = rest.as_bytes();
            match bytes.first() {
                Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0c) => self.at += 1,
                // The line ending itself is white space, so the comment may end before it.
                Some(b'-') if byte_at(rest, 1) == b'-' && self.at < self.lines_end => {
                    self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
                }
                Some(b'/') if byte_at(rest, 1) == b'*' => {
                    let Some(end) = rest[2..].find("*/") else {
                        return Err(ParseError::new(self.at, "the comment that begins here has no end: */ is missing"));
                    };
                    self.at += end + 4;
                }
                Some(_) | None => return Ok(()),
            }
        }
    }
}

fn unexpected(character: char) -> String {
    match character {
        '"' => "a double quote begins nothing: strings are written between single quotes".to_owned(),
        character => format!("the character {character:?} begins nothing in this language"),
    }
}

/// The byte at a place; 0, which no token has, beyond the end.
fn byte_at(text: &str, at: usize) -> u8 {
    text.as_bytes().get(at).copied().unwrap_or(0)
}

fn word(rest: &str) -> (TokenKind<'_>, usize) {
    let length = rest
        .bytes()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')))
        .unwrap_or(rest.len());
    let text = &rest[..length];
    let keyword = KEYWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    (
        keyword.map_or(TokenKind::Identifier(text), |&(_, keyword)| TokenKind::Keyword(keyword)),
        length,
    )
}

fn digits(text: &str, from: usize) -> usize {
    text.bytes().skip(from).take_while(u8::is_ascii_digit).count()
}

/// The length of the exponent at a place: 0 where there is none, also where no digit follows the `e`.
fn exponent(text: &str, from: usize) -> usize {
    if !matches!(byte_at(text, from), b'e' | b'E') {
        return 0;
    }
    let sign = usize::from(matches!(byte_at(text, from + 1), b'+' | b'-'));
    match digits(text, from + 1 + sign) {
        0 => 0,
        count => 1 + sign + count,
    }
}

fn number(rest: &str) -> (TokenKind<'_>, usize) {
    let whole = digits(rest, 0);
    let fraction = if byte_at(rest, whole) == b'.' {
        1 + digits(rest, whole + 1)
    } else {
        0
    };
    let float = whole + fraction + exponent(rest, whole + fraction);
    if float > whole {
        return (TokenKind::Float(&rest[..float]), float);
    }
    if byte_at(rest, 0) == b'0' {
        return (TokenKind::Integer(&rest[..1]), 1);
    }
    let suffix = usize::from(matches!(byte_at(rest, whole), b'l' | b'L'));
    (TokenKind::Integer(&rest[..whole]), whole + suffix)
}

fn string(rest: &str, at: usize) -> Result<(TokenKind<'_>, usize), ParseError> {
    let bytes = rest.as_bytes();
    let mut end = 1;
    loop {
        match bytes.get(end) {
            None => {
                return Err(ParseError::new(
                    at,
                    "the string that begins here has no end: a single quote is missing",
                ));
            }
            Some(b'\'') if bytes.get(end + 1) == Some(&b'\'') => end += 2,
            Some(b'\'') => return Ok((TokenKind::String(&rest[1..end]), end + 1)),
            Some(_) => end += 1,
        }
    }
}

fn symbol(rest: &str) -> Option<(TokenKind<'_>, usize)> {
    let (symbol, length) = match (byte_at(rest, 0), byte_at(rest, 1)) {
        (b'<', b'>') => (Symbol::Unequal, 2),
        (b'<', b'=') => (Symbol::LessOrEqual, 2),
        (b'<', _) => (Symbol::Less, 1),
        (b'>', b'=') => (Symbol::GreaterOrEqual, 2),
        (b'>', _) => (Symbol::Greater, 1),
        (b'=', _) => (Symbol::Equal, 1),
        (b'(', _) => (Symbol::Open, 1),
        (b')', _) => (Symbol::Close, 1),
        (b',', _) => (Symbol::Comma, 1),
        (b'+', _) => (Symbol::Plus, 1),
        (b'-', _) => (Symbol::Minus, 1),
        _ => return None,
    };
    Some((TokenKind::Symbol(symbol), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        let mut tokens = Tokens::new(text);
        let mut found = Vec::new();
        loop {
            let token = tokens.next_token().expect("the text has only tokens");
            if token.kind == TokenKind::End {
                return found;
            }
            found.push(token.text);
        }
    }

    #[test]
    fn the_longest_token_is_taken() {
        assert_eq!(texts("1AND<>=x"), ["1", "AND", "<>", "=", "x"]);
        assert_eq!(
            texts("007 0L 5.0L 1.5e 1.e5.5"),
            ["0", "0", "7", "0", "L", "5.0", "L", "1.5", "e", "1.e5", ".5"]
        );
        assert_eq!(texts("1e+ 1e+5 7L 00.5"), ["1", "e", "+", "1e+5", "7L", "00.5"]);
    }

    #[test]
    fn a_line_comment_needs_its_line_ending() {
        assert_eq!(texts("a--b"), ["a", "-", "-", "b"]);
        assert_eq!(texts("a--b\rc--d\ne"), ["a", "c", "e"]);
        assert_eq!(texts("a--\n--b"), ["a", "-", "-", "b"]);
    }

    #[test]
    fn a_block_comment_ends_at_the_first_end() {
        assert_eq!(texts("a/***/b/*/*/c"), ["a", "b", "c"]);
        assert_eq!(Tokens::new(" /*/").next_token().expect_err("it is not closed").at, 1);
    }

    #[test]
    fn strings_keep_everything_between_their_quotes() {
        assert_eq!(texts("'it''s' '' '--\n' ''''"), ["'it''s'", "''", "'--\n'", "''''"]);
        assert_eq!(Tokens::new("'it''").next_token().expect_err("it is not closed").at, 0);
    }

    #[test]
    fn other_white_space_and_double_quotes_are_refused_with_their_place() {
        for text in ["a\u{b}", "a\u{a0}", "a\"", "a;", "a.b", "a/b", "a!"] {
            let mut tokens = Tokens::new(text);
            tokens.next_token().expect("a is a token");
            assert_eq!(tokens.next_token().expect_err("nothing begins so").at, 1, "{text}");
        }
    }
}
