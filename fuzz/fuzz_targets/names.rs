//! Names, patterns and templates: what has a meaning is spelt in one way, and no name is two things.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_sds::{
    secret::{Naming, Pattern, SecretName, Template, check_name, dot_free},
    xds::Node,
};

fuzz_target!(|data: (&str, &str)| {
    let (name, other) = data;
    let naming = Naming::default();
    let meaning = SecretName::parse(name, &naming);
    let plain = name.replace("%2E", ".");
    match &meaning {
        Some(SecretName::Svid(id)) => assert_eq!(id.to_string(), plain),
        Some(SecretName::Bundle(td)) => assert_eq!(format!("spiffe://{td}"), plain),
        Some(SecretName::Jwt(jwt)) => assert_eq!(jwt.to_string(), plain),
        Some(SecretName::File(request)) => assert_eq!(request.to_string(), plain),
        _ => {}
    }
    if let Some(dotless) = dot_free(name) {
        assert_eq!(SecretName::parse(&dotless, &naming), meaning);
    }
    if check_name(name).is_ok() {
        let free = !matches!(meaning, Some(SecretName::Svid(_) | SecretName::Bundle(_) | SecretName::Jwt(_)));
        assert!(free, "a name of one's own that has a meaning already");
    }
    if let Ok(pattern) = name.parse::<Pattern>() {
        assert_eq!(pattern.source(), name);
        let _ = pattern.matches(other);
    }
    if let Ok(template) = name.parse::<Template>() {
        assert_eq!(template.source(), name);
        let node = Node { id: other.to_owned(), cluster: other.to_owned(), ..Node::default() };
        if template.is_fixed() {
            assert!(template.fill(&node).is_ok());
        }
        let _ = template.fill(&node);
    }
});
