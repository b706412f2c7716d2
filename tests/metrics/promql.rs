//! Queries held against the metrics that there are.

use std::collections::BTreeSet;

use promql_parser::parser::{self, Call, Expr, LabelModifier, VectorSelector};

use super::documented;

/// Labels that a scrape adds.
const ADDED: [&str; 2] = ["job", "instance"];

type Labels = BTreeSet<String>;

/// The labels of the result, or what is wrong with the query. Grafana's variables may stand in it.
pub(crate) fn check(query: &str) -> Result<Labels, String> {
    let query = query.replace("$__rate_interval", "5m").replace("$__interval", "5m");
    labels(&parser::parse(&query).map_err(|fault| format!("{query}: {fault}"))?)
}

fn labels(expression: &Expr) -> Result<Labels, String> {
    match expression {
        Expr::VectorSelector(selector) => selected(selector),
        Expr::MatrixSelector(matrix) => selected(&matrix.vs),
        Expr::Paren(inner) => labels(&inner.expr),
        Expr::Unary(inner) => labels(&inner.expr),
        Expr::Subquery(inner) => labels(&inner.expr),
        Expr::Binary(binary) => {
            let (left, right) = (labels(&binary.lhs)?, labels(&binary.rhs)?);
            Ok(if left.is_empty() { right } else { left })
        }
        Expr::Aggregate(aggregate) => {
            let inner = labels(&aggregate.expr)?;
            match &aggregate.modifier {
                None => Ok(Labels::new()),
                Some(LabelModifier::Include(kept)) => {
                    let kept: Labels = kept.labels.iter().cloned().collect();
                    match kept.difference(&inner).next() {
                        Some(missing) => Err(format!("no label {missing} in {}", aggregate.expr)),
                        None => Ok(kept),
                    }
                }
                Some(LabelModifier::Exclude(dropped)) => {
                    Ok(inner.into_iter().filter(|label| !dropped.labels.contains(label)).collect())
                }
            }
        }
        Expr::Call(call) => called(call),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(Labels::new()),
        Expr::Extension(_) => Err("an extension of the language".to_owned()),
    }
}

fn called(call: &Call) -> Result<Labels, String> {
    let name = call.func.name;
    let mut found = Labels::new();
    for argument in &call.args.args {
        found.extend(labels(argument)?);
        if let (Expr::MatrixSelector(matrix), "rate" | "increase") = (&**argument, name) {
            let (family, kind) = family(matrix.vs.name.as_deref().unwrap_or_default())?;
            if !matches!(kind.as_str(), "counter" | "histogram") {
                return Err(format!("{name} of {family}, which is a {kind}"));
            }
        }
    }
    if name == "histogram_quantile" && !found.remove("le") {
        return Err("histogram_quantile needs le".to_owned());
    }
    Ok(found)
}

fn selected(selector: &VectorSelector) -> Result<Labels, String> {
    let name = selector.name.as_deref().ok_or("a selector without a metric")?;
    let (family, _) = family(name)?;
    let mut labels = documented()[&family].labels.clone();
    labels.extend(ADDED.map(str::to_owned));
    if name.ends_with("_bucket") {
        labels.insert("le".to_owned());
    }
    match selector.matchers.matchers.iter().find(|matcher| !labels.contains(&matcher.name)) {
        Some(matcher) => Err(format!("no label {} on {name}", matcher.name)),
        None => Ok(labels),
    }
}

/// The family and kind of a sample's name.
fn family(sample: &str) -> Result<(String, String), String> {
    let suffixes = |kind: &str| match kind {
        "counter" => vec!["_total"],
        "histogram" => vec!["_bucket", "_sum", "_count"],
        "info" => vec!["_info"],
        _ => vec![""],
    };
    documented()
        .into_iter()
        .find(|(name, family)| suffixes(&family.kind).iter().any(|suffix| format!("{name}{suffix}") == sample))
        .map(|(name, family)| (name, family.kind))
        .ok_or_else(|| format!("no metric {sample}"))
}

/// The unit that Grafana must be told for a query.
pub(crate) fn unit(query: &str) -> &'static str {
    let has = |part: &str| query.contains(part);
    match () {
        () if has("_ratio") || has("cpu_seconds_total") => "percentunit",
        () if has("_timestamp_seconds") || has("_seconds_bucket") => "s",
        () if has("_bytes_total") => "Bps",
        () if has("_bytes") => "bytes",
        () if has("60 * sum") => "cpm",
        () if has("rate(") => "ops",
        () if has("min(") => "bool_yes_no",
        () => "short",
    }
}
