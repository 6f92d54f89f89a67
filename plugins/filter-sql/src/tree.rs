//! An expression as a tree, kept as a list in which each part follows the parts it is made of.
//!
//! The list, and not boxes, because a chain of thousands of operators is a tree thousands deep: everything that
//! works on it is a loop over the list, in the order of evaluation.

use crate::number::Number;

/// The place of a part in the list.
pub(crate) type NodeId = usize;

/// A value that needs no message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Text(String),
    Number(Number),
    Boolean(bool),
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Ordering {
    /// The one that holds of (b, a) when this one holds of (a, b).
    pub(crate) fn mirrored(self) -> Self {
        match self {
            Ordering::Less => Ordering::Greater,
            Ordering::LessOrEqual => Ordering::GreaterOrEqual,
            Ordering::Greater => Ordering::Less,
            Ordering::GreaterOrEqual => Ordering::LessOrEqual,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatchKind {
    Contains,
    StartsWith,
    EndsWith,
}

/// A part of an expression. BETWEEN is not among them: the parser writes the two orderings that it stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Constant(Constant),
    /// The property of this name.
    Property(String),
    /// NULL, once the operand has been evaluated: the negation of a test.
    NullAfter(NodeId),
    Not(NodeId),
    And(NodeId, NodeId),
    Or(NodeId, NodeId),
    Equal {
        left: NodeId,
        right: NodeId,
        negated: bool,
    },
    Order {
        left: NodeId,
        ordering: Ordering,
        right: NodeId,
    },
    IsNull {
        operand: NodeId,
        negated: bool,
    },
    In {
        property: NodeId,
        elements: Vec<String>,
        negated: bool,
    },
    Match {
        operand: NodeId,
        kind: MatchKind,
        text: String,
        negated: bool,
    },
}

/// A whole expression: each part after its operands, left before right; the last one is the whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
}

impl Tree {
    pub(crate) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}
