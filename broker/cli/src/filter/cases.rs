//! The table of a filter test: one case a line, tab-separated.

use super::sandbox::Attributes;
use crate::failure::Failure;

/// One expression, one message, and what is to come out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) expression: String,
    pub(super) attributes: Attributes,
    pub(super) result: String,
}

const HEADS: [&str; 4] = ["id", "expression", "properties", "result"];
const RESULTS: [&str; 5] = ["TRUE", "FALSE", "NULL", "PARSE_ERROR", "EVAL_ERROR"];

/// Reads a table. The first line names the columns; an empty line is passed over.
pub(super) fn parse(text: &str) -> Result<Vec<Case>, Failure> {
    let mut lines = text.lines().enumerate();
    let heads: Vec<&str> = lines.next().map(|(_, line)| line.split('\t').collect()).unwrap_or_default();
    if heads != HEADS {
        let text = format!(
            "the first line must name the columns {}, separated by tabs; it has {}",
            HEADS.join(", "),
            heads.join(", ")
        );
        return Err(Failure::failed(text));
    }
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(place, line)| case(line).map_err(|why| wrong(place + 1, &why)))
        .collect()
}

fn wrong(line: usize, why: &str) -> Failure {
    Failure::failed(format!("line {line} is no case: {why}"))
}

fn case(line: &str) -> Result<Case, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [id, expression, properties, result] = fields[..] else {
        return Err(format!("{} columns where {} are expected", fields.len(), HEADS.len()));
    };
    if !RESULTS.contains(&result) {
        return Err(format!("the result {result:?} is none of {}", RESULTS.join(", ")));
    }
    let property = |text: &str| {
        let pair = text.split_once('=').ok_or_else(|| format!("the property {text:?} has no ="))?;
        Ok::<_, String>((pair.0.to_owned(), pair.1.to_owned()))
    };
    let properties = properties
        .split(';')
        .filter(|text| !text.is_empty())
        .map(property)
        .collect::<Result<_, _>>()?;
    let attributes = Attributes {
        properties,
        ..Attributes::default()
    };
    Ok(Case {
        id: id.to_owned(),
        expression: expression.replace("\\n", "\n"),
        attributes,
        result: result.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "id\texpression\tproperties\tresult\n";

    #[test]
    fn a_case_is_read_with_its_escapes_and_properties() {
        let cases = parse(&format!("{HEAD}7\ta = 1 --x\\n\ta=1;b= 2\tTRUE\n8\tTRUE\t\tTRUE\n")).unwrap();
        assert_eq!(cases[0].expression, "a = 1 --x\n");
        let wanted = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), " 2".to_owned())];
        assert_eq!(cases[0].attributes.properties, wanted);
        assert!(cases[1].attributes.properties.is_empty());
    }

    #[test]
    fn a_line_that_is_no_case_is_named() {
        for (line, why) in [("1\ta\tb", "3 columns"), ("1\ta\t\tMAYBE", "MAYBE"), ("1\ta\tb\tTRUE", "has no =")] {
            let Err(Failure::Failed { text, .. }) = parse(&format!("{HEAD}{line}\n")) else {
                panic!("{line} is no case")
            };
            assert!(text.contains("line 2") && text.contains(why), "{text}");
        }
        assert!(parse("expression\tresult\n").is_err());
    }
}
