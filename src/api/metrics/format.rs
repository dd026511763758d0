//! The two text formats of figures, and which one a request asks for. Pure.

use axum::http::header::{self, HeaderMap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFormat {
    OpenMetrics,
    /// Version 0.0.4 of Prometheus's own.
    Prometheus,
}

impl TextFormat {
    /// The one that the header `Accept` prefers. Prometheus's own, unless the other one is named.
    pub(super) fn asked_for(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut open_metrics = 0.0;
        let mut plain = 0.0;
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(0.0))
            });
            let weight = weight.unwrap_or(1.0);
            match media_type.as_str() {
                "application/openmetrics-text" => open_metrics = weight.max(open_metrics),
                "text/plain" | "text/*" => plain = weight.max(plain),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The same figures in Prometheus's own format: families are named as their samples are, and of its few types.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // The line with a family's help, until its type says what it is called here.
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            flush(&mut out, help.take());
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                "gaugehistogram" => ("", "histogram"),
                _ => ("", kind),
            };
            match help.take() {
                Some((of, text)) if of == name => push(&mut out, &["# HELP ", name, suffix, " ", text]),
                other => flush(&mut out, other),
            }
            push(&mut out, &["# TYPE ", name, suffix, " ", kind]);
        } else if line.starts_with('#') {
            // `# UNIT` and `# EOF` are unknown here.
        } else {
            flush(&mut out, help.take());
            push(&mut out, &[line]);
        }
    }
    out
}

fn push(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
    out.push('\n');
}

fn flush(out: &mut String, help: Option<(&str, &str)>) {
    if let Some((name, text)) = help {
        push(out, &["# HELP ", name, " ", text]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: &[&str]) -> TextFormat {
        let accept = accept.iter().map(|text| (header::ACCEPT, text.parse().unwrap()));
        TextFormat::asked_for(&accept.collect())
    }

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        use TextFormat::{OpenMetrics, Prometheus};
        for (accept, expected) in [
            (&[][..], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Prometheus),
            (&["text/plain;version=0.0.4"], Prometheus),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"], OpenMetrics),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ],
                OpenMetrics,
            ),
            (&["text/plain;q=0.9", "application/openmetrics-text;q=0.8"], Prometheus),
            (&["application/openmetrics-text;q=0, */*"], Prometheus),
            (&["application/openmetrics-text;q=much"], Prometheus),
            (&["application/json"], Prometheus),
        ] {
            assert_eq!(asked(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn families_are_named_as_their_samples_are() {
        let open_metrics = "# HELP a Things.\n# TYPE a counter\n# UNIT a bytes\na_total{x=\"} # 1\"} 3\n\
                            # HELP b Build.\n# TYPE b info\nb_info{v=\"1\"} 1\n# TYPE c unknown\nc 1\n\
                            # HELP d D.\nd 2\n# HELP e E.\n# TYPE e gauge\ne{x=\"a\"} 5\n# EOF\n";
        assert_eq!(
            prometheus(open_metrics),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"} # 1\"} 3\n# HELP b_info Build.\n\
             # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# TYPE c untyped\nc 1\n# HELP d D.\nd 2\n# HELP e E.\n\
             # TYPE e gauge\ne{x=\"a\"} 5\n"
        );
    }
}
