//! Two measurements side by side: which values differ, and which inputs made them differ.

use super::Measured;

/// What differs between two measurements.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    /// The inputs that differ: name, value before, value after; empty where there is none.
    pub inputs: Vec<(String, String, String)>,
    /// The values that differ.
    pub values: Vec<Changed>,
}

/// A value that differs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// Before; empty where there was none.
    pub before: String,
    /// After; empty where there is none.
    pub after: String,
    /// The changed inputs that it is made of. Empty only when the two were not computed by one program.
    pub because: Vec<String>,
}

/// Compares.
#[must_use]
pub fn compare(before: &Measured, after: &Measured) -> Difference {
    let inputs = |measured: &Measured| measured.inputs.iter().map(|input| (input.name.clone(), input.value.clone())).collect::<Vec<_>>();
    let values = |measured: &Measured| measured.values.iter().map(|value| (value.name.clone(), value.value.clone())).collect::<Vec<_>>();
    let changed_inputs = changed(&inputs(before), &inputs(after));
    let because = |name: &str| {
        let made_of = |measured: &Measured| measured.values.iter().find(|value| value.name == name).map(|value| value.from.clone()).unwrap_or_default();
        let from: Vec<String> = [made_of(before), made_of(after)].concat();
        changed_inputs.iter().map(|(input, ..)| input.clone()).filter(|input| from.contains(input)).collect()
    };
    let values = changed(&values(before), &values(after));
    let values = values.into_iter().map(|(name, before, after)| Changed { because: because(&name), name, before, after }).collect();
    Difference { inputs: changed_inputs, values }
}

fn changed(before: &[(String, String)], after: &[(String, String)]) -> Vec<(String, String, String)> {
    let find = |list: &[(String, String)], name: &str| list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default();
    let mut names: Vec<&String> = before.iter().map(|(name, _)| name).collect();
    names.extend(after.iter().map(|(name, _)| name).filter(|name| !before.iter().any(|(known, _)| known == *name)));
    let sides = names.into_iter().map(|name| (name.clone(), find(before, name), find(after, name)));
    sides.filter(|(_, before, after)| before != after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Input, Value};

    fn measured(kernel: &str, vcpus: u32) -> Measured {
        let inputs = vec![Input::file("kernel", kernel.as_bytes()), Input::setting("vcpus", vcpus)];
        let both = crate::crypto::sha384(&[kernel.as_bytes(), &[vcpus as u8]]);
        let values = vec![Value::new("whole", &both, &["kernel", "vcpus"]), Value::new("boot", &crate::crypto::sha384(&[kernel.as_bytes()]), &["kernel"])];
        Measured { tee: "x".to_owned(), inputs, values }
    }

    #[test]
    fn a_changed_value_is_told_with_the_input_that_changed_it() {
        assert_eq!(compare(&measured("a", 1), &measured("a", 1)), Difference::default());
        let difference = compare(&measured("a", 1), &measured("a", 2));
        assert_eq!(difference.values.len(), 1);
        assert_eq!((difference.values[0].name.as_str(), difference.values[0].because.as_slice()), ("whole", ["vcpus".to_owned()].as_slice()));
        let difference = compare(&measured("a", 1), &measured("b", 1));
        let told: Vec<_> = difference.values.iter().map(|value| (value.name.as_str(), value.because.join(","))).collect();
        assert_eq!(told, [("whole", "kernel".to_owned()), ("boot", "kernel".to_owned())]);
    }
}
