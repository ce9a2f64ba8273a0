//! The XML that reference measurements use, and its canonical form (Canonical XML 1.1, inclusive, without comments).

/// Elements beyond this depth are not read.
const MAX_DEPTH: usize = 12;

/// More elements than this are not read; files have about 100.
const MAX_ELEMENTS: usize = 4096;

const MAX_ATTRIBUTES: usize = 64;

/// More namespaces in scope than this are not read: every element keeps those that are in scope for it. Files have six.
const MAX_NAMESPACES: usize = 16;

/// An element with what is in scope for it.
#[derive(Debug)]
pub(super) struct Element {
    /// Its name as written.
    name: String,
    attributes: Vec<(String, String)>,
    /// The namespaces declared above and here: prefix and name. The last of a prefix counts.
    scope: Vec<(String, String)>,
    children: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Element(Element),
    Text(String),
}

/// The root of a document; `None` for anything that these files do not use.
pub(super) fn parse(bytes: &[u8]) -> Option<Element> {
    let text = std::str::from_utf8(bytes).ok()?;
    // What would need entities, comments, raw text or the normalisation of ends of lines.
    if text.contains(['&', '\r']) || text.contains("<!") || text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
        return None;
    }
    let text = text.trim_matches([' ', '\n', '\t']);
    let text = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>")?.1.trim_start_matches([' ', '\n', '\t']),
        None => text,
    };
    let mut parser = Parser { rest: text, elements: 0 };
    let root = parser.element(&[], 0)?;
    parser.rest.is_empty().then_some(root)
}

struct Parser<'a> {
    rest: &'a str,
    elements: usize,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, wanted: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(wanted)?;
        Some(())
    }

    /// Whether there was white space.
    fn space(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\n', '\t']);
        let some = rest.len() != self.rest.len();
        self.rest = rest;
        some
    }

    fn name(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | ':')))?;
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        let parts = name.split(':').collect::<Vec<_>>();
        let well = parts.len() <= 2 && parts.iter().all(|part| part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'));
        well.then_some(name)
    }

    fn attribute(&mut self) -> Option<(String, String)> {
        let name = self.name()?;
        self.eat("=\"")?;
        let (value, rest) = self.rest.split_once('"')?;
        self.rest = rest;
        (!value.contains(['<', '\n', '\t'])).then(|| (name.to_owned(), value.to_owned()))
    }

    fn element(&mut self, above: &[(String, String)], depth: usize) -> Option<Element> {
        self.elements = self.elements.checked_add(1).filter(|elements| *elements <= MAX_ELEMENTS && depth <= MAX_DEPTH)?;
        self.eat("<")?;
        let name = self.name()?;
        let mut element = Element { name: name.to_owned(), attributes: Vec::new(), scope: above.to_vec(), children: Vec::new() };
        while self.space() && !self.rest.starts_with(['/', '>']) {
            let (key, value) = self.attribute()?;
            let twice = element.attributes.iter().any(|(known, _)| *known == key);
            if twice || element.attributes.len() >= MAX_ATTRIBUTES || key.starts_with("xml:") {
                return None;
            }
            element.attributes.push((key, value));
        }
        let declared: Vec<(String, String)> =
            element.attributes.iter().filter_map(|(key, value)| Some((declared_prefix(key)?.to_owned(), value.clone()))).collect();
        element.attributes.retain(|(key, _)| declared_prefix(key).is_none());
        for (prefix, name) in declared {
            element.scope.retain(|(known, _)| *known != prefix);
            element.scope.push((prefix, name));
        }
        if element.scope.len() > MAX_NAMESPACES {
            return None;
        }
        element.all_prefixes_known()?;
        if self.eat("/>").is_some() {
            return Some(element);
        }
        self.eat(">")?;
        loop {
            let (text, _) = self.rest.split_once('<')?;
            if !text.is_empty() {
                element.children.push(Node::Text(text.to_owned()));
                self.rest = self.rest.get(text.len()..)?;
            }
            if self.rest.starts_with("</") {
                self.eat("</")?;
                self.eat(name)?;
                self.space();
                self.eat(">")?;
                return Some(element);
            }
            let child = self.element(&element.scope, depth.checked_add(1)?)?;
            element.children.push(Node::Element(child));
        }
    }
}

/// The prefix that an attribute declares; empty for the default namespace.
fn declared_prefix(attribute: &str) -> Option<&str> {
    if attribute == "xmlns" { Some("") } else { attribute.strip_prefix("xmlns:") }
}

impl Element {
    fn namespace(&self, prefix: &str) -> Option<&str> {
        self.scope.iter().find(|(known, _)| known == prefix).map(|(_, name)| name.as_str())
    }

    fn all_prefixes_known(&self) -> Option<()> {
        let prefixes = std::iter::once(&self.name).chain(self.attributes.iter().map(|(key, _)| key)).filter_map(|name| Some(name.split_once(':')?.0));
        prefixes.into_iter().all(|prefix| self.namespace(prefix).is_some_and(|name| !name.is_empty())).then_some(())
    }

    /// Whether it is of this namespace and name.
    fn is(&self, namespace: &str, local: &str) -> bool {
        let (prefix, name) = self.name.split_once(':').unwrap_or(("", &self.name));
        name == local && self.namespace(prefix) == Some(namespace)
    }

    /// Its children of this namespace and name.
    pub(super) fn all<'a>(&'a self, namespace: &'a str, local: &'a str) -> impl Iterator<Item = &'a Self> {
        let elements = self.children.iter().filter_map(|child| match child {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        });
        elements.filter(move |element| element.is(namespace, local))
    }

    /// Its one child of this namespace and name; `None` when there are several.
    pub(super) fn only(&self, namespace: &str, local: &str) -> Option<&Self> {
        let children = self.children.iter().filter_map(|child| match child {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        });
        let mut these = children.filter(|element| element.is(namespace, local));
        let only = these.next();
        if these.next().is_some() { None } else { only }
    }

    /// The attribute without a prefix.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The one attribute with a prefix and this name behind it.
    pub(super) fn local(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter().filter(|(known, _)| known.split_once(':').is_some_and(|(_, local)| local == name));
        let only = all.next().map(|(_, value)| value.as_str());
        if all.next().is_some() { None } else { only }
    }

    /// Its text as Base64, which may have white space in it.
    pub(super) fn base64(&self) -> Option<Vec<u8>> {
        let mut text = String::new();
        for child in &self.children {
            let Node::Text(part) = child else { return None };
            text.extend(part.chars().filter(|letter| !letter.is_ascii_whitespace()));
        }
        data_encoding::BASE64.decode(text.as_bytes()).ok()
    }

    /// The canonical form, as the root of what is signed, without `left_out`.
    pub(super) fn canonical(&self, left_out: Option<&Self>) -> Vec<u8> {
        let mut out = String::new();
        self.write(&[], left_out, &mut out);
        out.into_bytes()
    }

    fn write(&self, rendered: &[(String, String)], left_out: Option<&Self>, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        let known = |prefix: &str| rendered.iter().find(|(known, _)| known == prefix).map_or("", |(_, name)| name.as_str());
        let mut declared: Vec<_> = self.scope.iter().filter(|(prefix, name)| known(prefix) != name).collect();
        declared.sort();
        for (prefix, name) in declared {
            let attribute = if prefix.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{prefix}") };
            written(out, &attribute, name);
        }
        let place = |name: &str| match name.split_once(':') {
            Some((prefix, local)) => (self.namespace(prefix).unwrap_or_default().to_owned(), local.to_owned()),
            None => (String::new(), name.to_owned()),
        };
        let mut attributes: Vec<_> = self.attributes.iter().collect();
        attributes.sort_by_key(|(name, _)| place(name));
        for (name, value) in attributes {
            written(out, name, value);
        }
        out.push('>');
        for child in &self.children {
            match child {
                Node::Element(element) if left_out.is_some_and(|left_out| std::ptr::eq(left_out, element)) => {}
                Node::Element(element) => element.write(&self.scope, left_out, out),
                Node::Text(text) => out.push_str(&text.replace('>', "&gt;")),
            }
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

/// An attribute; nothing in it needs escaping, as nothing that would was read.
fn written(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    out.push_str(value);
    out.push('"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        parse(text.as_bytes()).map(|root| String::from_utf8(root.canonical(None)).unwrap())
    }

    #[test]
    fn the_canonical_form_is_that_of_the_recommendation() {
        for (text, form) in [
            ("<?xml version=\"1.0\"?>\n<a  b = \"1\"/>", None),
            ("<?xml version=\"1.0\"?>\n<a  b=\"1\"   />\n", Some("<a b=\"1\"></a>")),
            (
                "<a z=\"1\" b=\"2\" xmlns:y=\"u:2\" xmlns:x=\"u:9\" y:q=\"3\" x:a=\"4\" xmlns=\"d\"></a >",
                Some("<a xmlns=\"d\" xmlns:x=\"u:9\" xmlns:y=\"u:2\" b=\"2\" z=\"1\" y:q=\"3\" x:a=\"4\"></a>"),
            ),
            ("<a xmlns:x=\"u\"><x:b xmlns:x=\"u\"/> > </a>", Some("<a xmlns:x=\"u\"><x:b></x:b> &gt; </a>")),
            ("<a xmlns=\"u\"><b xmlns=\"\"/></a>", Some("<a xmlns=\"u\"><b xmlns=\"\"></b></a>")),
        ] {
            assert_eq!(canonical(text).as_deref(), form, "{text}");
        }
    }

    #[test]
    fn what_these_files_do_not_use_is_refused() {
        for text in [
            "",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a b=\"1\" b=\"2\"/>",
            "<a b='1'/>",
            "<a>&lt;</a>",
            "<!DOCTYPE a><a/>",
            "<a><!-- c --></a>",
            "<a><![CDATA[x]]></a>",
            "<a><?p?></a>",
            "<a>\r</a>",
            "<x:a/>",
            "<a x:b=\"1\"/>",
            "<a b=\"\n\"/>",
            "<a xml:lang=\"en\"/>",
            "<1/>",
            "< a/>",
            "<a:b:c/>",
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
        let names = |count: usize| (0..count).map(|name| format!(" xmlns:n{name}=\"u\"")).collect::<String>();
        assert!(parse(format!("<a{}/>", names(MAX_NAMESPACES)).as_bytes()).is_some());
        assert!(parse(format!("<a{}/>", names(MAX_NAMESPACES + 1)).as_bytes()).is_none(), "elements times namespaces are bounded");
        let deep = "<a>".repeat(MAX_DEPTH + 2) + &"</a>".repeat(MAX_DEPTH + 2);
        assert!(parse(deep.as_bytes()).is_none());
    }
}
