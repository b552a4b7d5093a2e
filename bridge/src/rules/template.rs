//! Words and conditions of rules: minijinja without access to anything, with a limit of work and of output.

use minijinja::{Environment, Error, Value};

/// Work that one evaluation may do, in minijinja's instructions.
const FUEL: u64 = 50_000;
/// Longest text that a template may make, bytes.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The environment of all templates of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    env: Environment<'static>,
}

impl Templates {
    pub(crate) fn new() -> Templates {
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(32);
        env.add_filter("span", |ms: u64| crate::report::span(ms));
        Templates { env }
    }

    /// Checks a template at the time at which it is read.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub(crate) fn check_text(&self, text: &str) -> Result<(), String> {
        self.env.template_from_str(text).map(drop).map_err(|error| words(&error))
    }

    /// Checks a condition at the time at which it is read.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check_condition(&self, condition: &str) -> Result<(), String> {
        self.env.compile_expression(condition).map(drop).map_err(|error| words(&error))
    }

    /// Fills a template.
    ///
    /// # Errors
    /// It asked for something that is not there in a way that has no answer, or for too much work.
    pub(crate) fn text(&self, text: &str, event: &Value) -> Result<String, String> {
        let mut made = self.env.render_str(text, event).map_err(|error| words(&error))?;
        made.truncate(made.floor_char_boundary(TEXT_BYTES_MAX));
        Ok(made)
    }

    /// Tells whether a condition holds; something undefined does not hold.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub(crate) fn holds(&self, condition: &str, event: &Value) -> Result<bool, String> {
        let expression = self.env.compile_expression(condition).map_err(|error| words(&error))?;
        Ok(expression.eval(event).map_err(|error| words(&error))?.is_true())
    }
}

fn words(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" in line {line}"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn event() -> Value {
        context! { device => "truck-7", distance_m => 183.5, payload => context! { open => true }, ts => 5 }
    }

    #[test]
    fn texts_and_conditions_see_the_event() {
        let templates = Templates::new();
        let text =
            templates.text("{{ device }} is {{ distance_m|round|int }} m off, {{ 250000|span }}", &event());
        assert_eq!(text.unwrap(), "truck-7 is 184 m off, 4 min");
        for (condition, want) in [
            ("distance_m > 100", true),
            ("distance_m > 200", false),
            ("payload.open and device == 'truck-7'", true),
            ("device in ['truck-1', 'truck-7']", true),
            ("nothing", false),
        ] {
            assert_eq!(templates.holds(condition, &event()), Ok(want), "{condition}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error_with_the_reason() {
        let templates = Templates::new();
        let error = templates.check_text("{{ device").unwrap_err();
        assert!(error.contains("syntax error") && error.contains("line 1"), "{error}");
        assert!(templates.check_condition("distance_m >").unwrap_err().contains("syntax error"));
        assert!(templates.holds("nothing.at.all", &event()).is_err());
    }

    #[test]
    fn a_template_cannot_run_for_ever_or_fill_the_memory() {
        let templates = Templates::new();
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(templates.text(endless, &event()).unwrap_err().contains("fuel"));
        let long = templates.text(&"é".repeat(TEXT_BYTES_MAX), &event()).unwrap();
        assert_eq!(long.len(), TEXT_BYTES_MAX);
    }
}
