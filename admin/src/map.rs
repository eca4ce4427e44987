//! The live map: a page that shows the whole cluster from any node. It is what is in these files, and fetches nothing but `/state`,
//! `/load` and `/explain` of the node that it comes from.

/// A part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// What a browser opens.
    Document,
    /// How it looks.
    Style,
    /// What it does.
    Script,
}

impl Page {
    const ALL: [Self; 3] = [Self::Document, Self::Style, Self::Script];

    /// The part that is there.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Document => "/",
            Self::Style => "/map.css",
            Self::Script => "/map.js",
        }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Document => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
        }
    }

    /// What a browser is sent.
    pub fn body(self) -> &'static str {
        match self {
            Self::Document => include_str!("map/map.html"),
            Self::Style => include_str!("map/map.css"),
            Self::Script => include_str!("map/map.js"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The images have little room, and a browser far away little patience.
    const BYTES_MAX: usize = 56 * 1024;

    #[test]
    fn it_is_small_and_has_nothing_from_elsewhere() {
        let bytes: usize = Page::ALL.into_iter().map(|page| page.body().len()).sum();
        assert!(bytes <= BYTES_MAX, "{bytes} bytes");
        for page in Page::ALL {
            let body = page.body();
            // The name of SVG's elements, which nothing is fetched from.
            let body = body.replace("http://www.w3.org/2000/svg", "");
            // Where people may go: the map of another node.
            let body = body.replace("`http://${address(", "");
            for word in ["http:", "https:", "@import", "src=\"//", "url(//"] {
                assert!(!body.contains(word), "{page:?} has {word}");
            }
        }
    }

    #[test]
    fn what_others_have_chosen_is_only_ever_text() {
        let script = Page::Script.body();
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
        ] {
            assert!(!script.contains(word), "{word}");
        }
        // The policy would refuse both.
        let document = Page::Document.body();
        assert!(!document.contains("<style") && !document.contains(" style=") && !document.contains(" on"));
        assert_eq!(document.matches("<script").count(), document.matches("<script src=").count());
    }
}
