//! Settings given to `bench` on the command line, for the broker that it starts.

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// Writes the settings as a configuration file and has `serve` read it. The file lasts as long as what is returned.
///
/// # Errors
/// A setting is no `KEY=VALUE`, or the case starts no broker of its own that could read it.
pub(super) fn hand_over(settings: &[String], serve: Option<&mut Vec<String>>) -> Result<Option<NamedTempFile>> {
    if settings.is_empty() {
        return Ok(None);
    }
    let Some(serve) = serve else { bail!("this case takes no settings") };
    let mut table = toml::Table::new();
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("a setting is given as KEY=VALUE, not as {setting}"))?;
        let value = match toml::from_str::<toml::Table>(&format!("value = {value}")) {
            Ok(mut parsed) => parsed.remove("value").context("the text has a value")?,
            // A word without quotes.
            Err(_) => toml::Value::String(value.to_owned()),
        };
        insert(&mut table, key, value).with_context(|| format!("{key} is given twice"))?;
    }
    let file = NamedTempFile::new().context("make a file for the settings")?;
    std::fs::write(file.path(), toml::to_string(&table).context("write the settings")?).context("write the settings")?;
    serve.extend(["--config".to_owned(), file.path().display().to_string()]);
    Ok(Some(file))
}

/// Puts a value in its place; `None` when something is there.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) -> Option<()> {
    match key.split_once('.') {
        None => table.insert(key.to_owned(), value).is_none().then_some(()),
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()?;
            insert(inner, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(settings: &[&str]) -> Result<String> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut serve = Vec::new();
        let file = hand_over(&settings, Some(&mut serve))?.context("a file")?;
        assert_eq!(serve, ["--config".to_owned(), file.path().display().to_string()]);
        Ok(std::fs::read_to_string(file.path())?)
    }

    #[test]
    fn settings_become_a_configuration_file() {
        let text = written(&["verdict_threads=1", "durability=async", "limits.streams=8", "limits.connections=3"]).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let expected = "durability = \"async\"\nverdict_threads = 1\n[limits]\nstreams = 8\nconnections = 3\n";
        assert_eq!(table, toml::from_str(expected).unwrap());
    }

    #[test]
    fn what_is_no_setting_or_given_twice_is_refused() {
        assert!(written(&["verdict_threads"]).is_err());
        assert!(written(&["drain_ms=1", "drain_ms=2"]).is_err());
        assert!(hand_over(&["drain_ms=1".to_owned()], None).is_err());
    }
}
