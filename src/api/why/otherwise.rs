//! What libraries say of an asset that is not what is shown of it here.

use crate::api::view::AgentView;
use crate::store::StoredRecord;

/// Which libraries that may only be read say something else of it than what is shown, and why, in a sentence; empty for none.
pub(super) fn explain(view: &AgentView, known: &StoredRecord) -> String {
    let libraries = view.libraries.shared().into_iter().filter(|library| library.is_said_otherwise(known));
    let names: Vec<String> = libraries
        .filter_map(|library| Some(format!("'{}'", library.shared()?.ticket().claims().name)))
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        " What is said of it in {} is something else, and does not come here: it was put or edited in this network, whose own word \
         stays, and the ticket allows no more than reading.",
        names.join(", ")
    )
}
