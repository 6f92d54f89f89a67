//! Reads an expression into a tree, by the grammar and the static checks of docs/sql.md.
//!
//! One function a level of the grammar. Only parentheses and prefix operators make it call itself, and they are
//! counted, so the stack it needs is bounded; a chain of operators of one level is a loop.

use crate::checks::{Kind, Operand, check_bounds, check_condition, check_equality, check_order, check_property};
use crate::number::Number;
use crate::token::{Keyword, ParseError, Symbol, Token, TokenKind, Tokens};
use crate::tree::{Constant, MatchKind, Node, Ordering, Tree};

/// The most parentheses and prefix operators around a part of an expression.
pub(crate) const NESTING_MAX: usize = 160;

/// Reads a whole expression; its last node is the whole.
pub(crate) fn parse(text: &str) -> Result<Tree, ParseError> {
    let mut tokens = Tokens::new(text);
    let token = tokens.next_token()?;
    let mut parser = Parser {
        tokens,
        token,
        tree: Tree::default(),
        nesting: 0,
    };
    let whole = parser.or()?;
    if parser.token.kind != TokenKind::End {
        let found = parser.token.text;
        return Err(ParseError::new(
            parser.token.at,
            format!("the expression is complete before `{found}`, which nothing joins to it"),
        ));
    }
    if !whole.kind.is_condition() {
        return Err(ParseError::new(
            whole.at,
            "the whole expression is a plain value: a condition, such as a comparison, is needed",
        ));
    }
    Ok(parser.tree)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    /// The first token not yet used.
    token: Token<'a>,
    tree: Tree,
    nesting: usize,
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<(), ParseError> {
        self.token = self.tokens.next_token()?;
        Ok(())
    }

    fn take(&mut self, kind: TokenKind<'_>) -> Result<bool, ParseError> {
        let found = self.token.kind == kind;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn take_keyword(&mut self, keyword: Keyword) -> Result<bool, ParseError> {
        self.take(TokenKind::Keyword(keyword))
    }

    fn expect(&mut self, kind: TokenKind<'_>, what: &str) -> Result<(), ParseError> {
        if self.take(kind)? { Ok(()) } else { Err(self.expected(what)) }
    }

    fn expected(&self, what: &str) -> ParseError {
        match self.token.kind {
            TokenKind::End => ParseError::new(self.token.at, format!("the expression ends where {what} is expected")),
            _ => ParseError::new(self.token.at, format!("found `{}` where {what} is expected", self.token.text)),
        }
    }

    fn test(&mut self, at: usize, node: Node) -> Operand {
        Operand {
            node: self.tree.push(node),
            kind: Kind::Test,
            at,
        }
    }

    fn or(&mut self) -> Result<Operand, ParseError> {
        let mut left = self.and()?;
        while self.token.kind == TokenKind::Keyword(Keyword::Or) {
            check_condition(left, "OR")?;
            self.advance()?;
            let right = self.and()?;
            check_condition(right, "OR")?;
            left = self.test(left.at, Node::Or(left.node, right.node));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Operand, ParseError> {
        let mut left = self.equality()?;
        while self.token.kind == TokenKind::Keyword(Keyword::And) {
            check_condition(left, "AND")?;
            self.advance()?;
            let right = self.equality()?;
            check_condition(right, "AND")?;
            left = self.test(left.at, Node::And(left.node, right.node));
        }
        Ok(left)
    }

    fn equality(&mut self) -> Result<Operand, ParseError> {
        let mut left = self.comparison()?;
        loop {
            let negated = match self.token.kind {
                TokenKind::Symbol(Symbol::Equal) => false,
                TokenKind::Symbol(Symbol::Unequal) => true,
                TokenKind::Keyword(Keyword::Is) => {
                    self.advance()?;
                    let negated = self.take_keyword(Keyword::Not)?;
                    self.expect(TokenKind::Keyword(Keyword::Null), "NULL after IS or IS NOT")?;
                    left = self.test(
                        left.at,
                        Node::IsNull {
                            operand: left.node,
                            negated,
                        },
                    );
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.comparison()?;
            check_equality(left, right)?;
            left = self.test(
                left.at,
                Node::Equal {
                    left: left.node,
                    right: right.node,
                    negated,
                },
            );
        }
    }

    fn comparison(&mut self) -> Result<Operand, ParseError> {
        let mut left = self.unary()?;
        loop {
            let ordering = match self.token.kind {
                TokenKind::Symbol(Symbol::Less) => Ordering::Less,
                TokenKind::Symbol(Symbol::LessOrEqual) => Ordering::LessOrEqual,
                TokenKind::Symbol(Symbol::Greater) => Ordering::Greater,
                TokenKind::Symbol(Symbol::GreaterOrEqual) => Ordering::GreaterOrEqual,
                TokenKind::Keyword(
                    Keyword::Not | Keyword::Contains | Keyword::StartsWith | Keyword::EndsWith | Keyword::Between | Keyword::In,
                ) => {
                    left = self.infix_word(left)?;
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.unary()?;
            check_order(left)?;
            check_order(right)?;
            left = self.test(
                left.at,
                Node::Order {
                    left: left.node,
                    ordering,
                    right: right.node,
                },
            );
        }
    }

    /// A text match, BETWEEN or IN after its first operand, with or without NOT.
    fn infix_word(&mut self, left: Operand) -> Result<Operand, ParseError> {
        let negated = self.take_keyword(Keyword::Not)?;
        let kind = match self.token.kind {
            TokenKind::Keyword(Keyword::Contains) => MatchKind::Contains,
            TokenKind::Keyword(Keyword::StartsWith) => MatchKind::StartsWith,
            TokenKind::Keyword(Keyword::EndsWith) => MatchKind::EndsWith,
            TokenKind::Keyword(Keyword::Between) => {
                self.advance()?;
                return self.between(left, negated);
            }
            TokenKind::Keyword(Keyword::In) => {
                self.advance()?;
                return self.in_list(left, negated);
            }
            _ => return Err(self.expected("CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN after NOT")),
        };
        self.advance()?;
        let text = self.string()?;
        Ok(self.test(
            left.at,
            Node::Match {
                operand: left.node,
                kind,
                text,
                negated,
            },
        ))
    }

    /// Writes `x >= low AND x <= high`, or `x < low OR x > high`, which is what BETWEEN means.
    fn between(&mut self, value: Operand, negated: bool) -> Result<Operand, ParseError> {
        use Ordering::{Greater, GreaterOrEqual, Less, LessOrEqual};
        check_order(value)?;
        let (from, to) = if negated { (Less, Greater) } else { (GreaterOrEqual, LessOrEqual) };
        let low = self.unary()?;
        check_order(low)?;
        let left = self.tree.push(Node::Order {
            left: value.node,
            ordering: from,
            right: low.node,
        });
        self.expect(TokenKind::Keyword(Keyword::And), "AND between the bounds of BETWEEN")?;
        let again = self.tree.nodes[value.node].clone();
        let again = self.tree.push(match again {
            Node::Constant(_) | Node::Property(_) => again,
            // Evaluated once already, it is NULL and has nothing more to say.
            _ => Node::Constant(Constant::Null),
        });
        let high = self.unary()?;
        check_order(high)?;
        if !negated {
            check_bounds(low, high)?;
        }
        let right = self.tree.push(Node::Order {
            left: again,
            ordering: to,
            right: high.node,
        });
        Ok(self.test(value.at, if negated { Node::Or(left, right) } else { Node::And(left, right) }))
    }

    fn in_list(&mut self, property: Operand, negated: bool) -> Result<Operand, ParseError> {
        check_property(property)?;
        self.expect(TokenKind::Symbol(Symbol::Open), "an opening parenthesis after IN")?;
        let mut elements = vec![self.string()?];
        while self.take(TokenKind::Symbol(Symbol::Comma))? {
            elements.push(self.string()?);
        }
        self.expect(TokenKind::Symbol(Symbol::Close), "a comma or a closing parenthesis")?;
        Ok(self.test(
            property.at,
            Node::In {
                property: property.node,
                elements,
                negated,
            },
        ))
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let TokenKind::String(quoted) = self.token.kind else {
            return Err(self.expected("a string"));
        };
        self.advance()?;
        Ok(quoted.replace("''", "'"))
    }

    fn deeper(&mut self) -> Result<(), ParseError> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(ParseError::new(
                self.token.at,
                format!("parentheses and prefix operators are nested more than {NESTING_MAX} deep"),
            ));
        }
        self.advance()
    }

    fn unary(&mut self) -> Result<Operand, ParseError> {
        let at = self.token.at;
        let operand = match self.token.kind {
            TokenKind::Symbol(Symbol::Plus) => {
                self.deeper()?;
                self.unary()?
            }
            TokenKind::Symbol(Symbol::Minus) => {
                self.deeper()?;
                let operand = self.unary()?;
                self.negation(at, operand)
            }
            TokenKind::Keyword(Keyword::Not) => {
                self.deeper()?;
                let operand = self.unary()?;
                check_condition(operand, "NOT")?;
                self.test(at, Node::Not(operand.node))
            }
            TokenKind::Symbol(Symbol::Open) => {
                self.deeper()?;
                let operand = self.or()?;
                self.expect(TokenKind::Symbol(Symbol::Close), "a closing parenthesis or an operator")?;
                operand
            }
            _ => return self.leaf(),
        };
        self.nesting -= 1;
        Ok(operand)
    }

    fn negation(&mut self, at: usize, operand: Operand) -> Operand {
        let node = match &self.tree.nodes[operand.node] {
            Node::Constant(Constant::Number(number)) => Some(Node::Constant(Constant::Number(number.negated()))),
            Node::Constant(_) | Node::Property(_) => Some(Node::Constant(Constant::Null)),
            Node::NullAfter(_) => None,
            _ => {
                return Operand {
                    node: self.tree.push(Node::NullAfter(operand.node)),
                    kind: Kind::Negation,
                    at,
                };
            }
        };
        if let Some(node) = node {
            self.tree.nodes[operand.node] = node;
        }
        Operand {
            node: operand.node,
            kind: Kind::Negation,
            at,
        }
    }

    fn leaf(&mut self) -> Result<Operand, ParseError> {
        let at = self.token.at;
        let (node, kind) = match self.token.kind {
            TokenKind::Identifier(name) => (Node::Property(name.to_owned()), Kind::Property),
            TokenKind::String(_) => {
                let text = self.string()?;
                return Ok(Operand {
                    node: self.tree.push(Node::Constant(Constant::Text(text))),
                    kind: Kind::String,
                    at,
                });
            }
            TokenKind::Integer(digits) => {
                let number = Number::from_digits(digits)
                    .ok_or_else(|| ParseError::new(at, "the integer is too large: 9223372036854775807 is the greatest"))?;
                (Node::Constant(Constant::Number(number)), Kind::Number(number))
            }
            TokenKind::Float(text) => {
                let number = Number::from_float(text)
                    .ok_or_else(|| ParseError::new(at, "the number rounds to zero or to infinity: for zero write the integer 0"))?;
                (Node::Constant(Constant::Number(number)), Kind::Number(number))
            }
            TokenKind::Keyword(Keyword::True) => (Node::Constant(Constant::Boolean(true)), Kind::Boolean),
            TokenKind::Keyword(Keyword::False) => (Node::Constant(Constant::Boolean(false)), Kind::Boolean),
            TokenKind::Keyword(Keyword::Null) => (Node::Constant(Constant::Null), Kind::Null),
            TokenKind::Keyword(_) | TokenKind::Symbol(_) | TokenKind::End => {
                return Err(self.expected("a property, a literal or a parenthesis"));
            }
        };
        self.advance()?;
        Ok(Operand {
            node: self.tree.push(node),
            kind,
            at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_at(text: &str) -> usize {
        parse(text).expect_err(text).at
    }

    #[test]
    fn each_static_check_refuses_at_the_operand_it_is_about() {
        for (text, at) in [
            ("1", 0),
            (" -a", 1),
            ("NOT 5", 4),
            ("a = 1 OR 5", 9),
            ("'x' AND a", 0),
            ("a = NULL", 4),
            ("(NULL) <> a", 1),
            ("TRUE = 1", 7),
            ("(FALSE) = +'x'", 11),
            ("a > '10'", 4),
            ("1 < 2 < 3", 0),
            ("a > TRUE", 4),
            ("a BETWEEN 'a' AND 'z'", 10),
            ("a BETWEEN 2.0 AND 1", 10),
            ("NOT a IN ('x')", 0),
            ("a > 9223372036854775808", 4),
            ("a > 0.0", 4),
        ] {
            assert_eq!(refused_at(text), at, "{text}");
        }
    }

    #[test]
    fn what_no_check_forbids_is_accepted() {
        for text in [
            "5 = TRUE",
            "TRUE = -5",
            "40 = 4.0",
            "a NOT BETWEEN 5 AND 1",
            "a BETWEEN 5 AND -5",
            "+a IN ('x')",
            "a = (b = 1)",
            "NOT NULL = a",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn text_after_the_expression_is_refused_where_it_begins() {
        assert_eq!(refused_at("a = 1 b = 2"), 6);
        assert_eq!(refused_at("a LIKE 'x'"), 2);
        assert_eq!(refused_at("a NOT = 1"), 6);
        assert_eq!(refused_at("a IS TRUE"), 5);
        assert_eq!(refused_at(""), 0);
    }

    #[test]
    fn nesting_is_accepted_to_its_bound_and_refused_beyond() {
        let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(NESTING_MAX)).is_ok());
        assert_eq!(refused_at(&nested(NESTING_MAX + 1)), NESTING_MAX);
        assert!(parse(&format!("a = {}5", "- ".repeat(NESTING_MAX))).is_ok());
        assert!(parse(&format!("{}a", "NOT ".repeat(1_000_000))).is_err());
        assert!(parse(&"(".repeat(1_000_000)).is_err());
    }

    #[test]
    fn chains_have_no_bound() {
        assert!(parse(&vec!["a = 1"; 100_000].join(" OR ")).is_ok());
        assert!(parse(&format!("a{}", " IS NULL".repeat(100_000))).is_ok());
        assert!(parse(&format!("a{}", " CONTAINS 'x'".repeat(100_000))).is_ok());
        assert!(parse(&format!("a{}", " = (b)".repeat(100_000))).is_ok());
    }
}
