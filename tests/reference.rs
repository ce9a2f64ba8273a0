//! The reference pages are what the program's own tables give. `PORTCULLIS_REGENERATE=1` writes them.

#![cfg(feature = "cli")]

use std::path::Path;

fn is_generated(page: &str, made: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    if std::env::var_os("PORTCULLIS_REGENERATE").is_some() {
        std::fs::write(&page, made).expect("the page on disk");
    }
    let kept = std::fs::read_to_string(&page).unwrap_or_default();
    assert_eq!(kept, made, "{}: run the tests with PORTCULLIS_REGENERATE=1", page.display());
}

#[test]
fn the_policy_page_is_the_vocabulary() {
    is_generated("docs/policy.md", &portcullis::cli::policy_reference());
}

#[test]
#[cfg(feature = "simulator")]
fn the_command_page_is_what_can_be_typed() {
    is_generated("docs/cli.md", &portcullis::cli::command_reference());
}
