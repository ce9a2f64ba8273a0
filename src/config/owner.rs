//! Who owns a Unix socket: `USER`, `USER:GROUP` or `:GROUP`, each by name or by number.

use std::path::Path;

use super::files;
use super::tree::Wrong;

/// A list of users or groups is not read beyond this.
const MAX_LIST: usize = 1 << 20;

/// Whom a file is given to; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Owner {
    /// The user's number.
    pub user: Option<u32>,
    /// The group's number.
    pub group: Option<u32>,
}

/// Reads an owner. Names are looked up in `/etc/passwd` and `/etc/group`, and nowhere else.
pub(super) fn owner(text: &str) -> Result<Owner, Wrong> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    if user.is_empty() && group.is_empty() || text.ends_with(':') {
        return Err(Wrong::new(format!("\"{text}\" is no owner"), "write \"USER\", \"USER:GROUP\" or \":GROUP\", names or numbers"));
    }
    Ok(Owner { user: known(user, "user", "/etc/passwd")?, group: known(group, "group", "/etc/group")? })
}

fn known(text: &str, what: &str, list: &str) -> Result<Option<u32>, Wrong> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|octet| octet.is_ascii_digit()) {
        let wrong = || Wrong::new(format!("{text} is no number of a {what}"), "write a number below 4294967295");
        return number(text).map(Some).ok_or_else(wrong);
    }
    let listed = files::read(Path::new(list), MAX_LIST)?;
    let found = number_of(text, &String::from_utf8_lossy(&listed)).and_then(number);
    let wrong = || Wrong::new(format!("no {what} is called \"{text}\" in {list}"), format!("make the {what}, or write its number"));
    found.map(Some).ok_or_else(wrong)
}

/// The number behind a name: in both lists it is the third field.
fn number_of<'a>(name: &str, list: &'a str) -> Option<&'a str> {
    let fields = |line: &'a str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)).flatten()
    };
    list.lines().find_map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_owners() {
        let of = |user, group| Ok(Owner { user, group });
        assert_eq!(owner("root"), of(Some(0), None));
        assert_eq!(owner("root:0"), of(Some(0), Some(0)));
        assert_eq!(owner(":65534"), of(None, Some(65_534)));
        for bad in ["", ":", "root:", "4294967295", "no-such-user", ":no-such-group", "root:0:0", "99999999999", "+1", "-1"] {
            let wrong = owner(bad).expect_err(bad);
            assert!(!wrong.help.is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_found_whole_and_first_wins() {
        let list = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:\n\n:x:7:\nweb2:x:34:34::/:\nweb:x:99:99::/:\ntorn:x\n";
        assert_eq!(number_of("web", list), Some("33"));
        assert_eq!(number_of("we", list), None);
        assert_eq!(number_of("torn", list), None);
        assert_eq!(number_of("x", list), None);
    }
}
