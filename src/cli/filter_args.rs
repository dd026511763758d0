//! The flags that say what a filter matches.

use crate::library::filter::FilterSpec;

#[derive(clap::Args, Debug)]
pub(super) struct FilterArgs {
    /// Program that made the asset
    #[arg(long)]
    application: Option<String>,
    /// One of the asset's tags; any of them, where it is given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Person that made the asset
    #[arg(long)]
    user: Option<String>,
    /// How the media type begins, such as `image/`
    #[arg(long, value_name = "PREFIX")]
    mime_prefix: Option<String>,
}

impl FilterArgs {
    /// `None` where no flag was given.
    pub(super) fn spec(self) -> Option<FilterSpec> {
        let Self { application, tags, user, mime_prefix } = self;
        let tags = (!tags.is_empty()).then_some(tags);
        let spec = FilterSpec { application, tags, user, mime_prefix, ..FilterSpec::default() };
        (spec != FilterSpec::default()).then_some(spec)
    }
}
