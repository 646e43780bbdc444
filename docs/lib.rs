//! The pages of this folder, so that `cargo test -p docs` compiles and runs their Rust blocks. Their
//! shell blocks are run by `kv-daemon/tests/docs.rs`, their links are held by `tests/pages.rs`.

#[doc = include_str!("README.md")]
pub mod reading_order {}
#[doc = include_str!("architecture.md")]
pub mod architecture {}
#[doc = include_str!("tour.md")]
pub mod tour {}
#[doc = include_str!("carp.md")]
pub mod carp {}
#[doc = include_str!("raft.md")]
pub mod raft {}
#[doc = include_str!("disk-format.md")]
pub mod disk_format {}
#[doc = include_str!("http-api.md")]
pub mod http_api {}
#[doc = include_str!("kv.md")]
pub mod kv {}
#[doc = include_str!("operations.md")]
pub mod operations {}
#[doc = include_str!("simulation.md")]
pub mod simulation {}
#[doc = include_str!("performance.md")]
pub mod performance {}
#[doc = include_str!("style.md")]
pub mod style {}

#[doc = include_str!("decisions/README.md")]
pub mod decisions {
    #[doc = include_str!("decisions/an-ordered-map-of-our-own.md")]
    pub mod an_ordered_map_of_our_own {}
    #[doc = include_str!("decisions/commit-notice.md")]
    pub mod commit_notice {}
    #[doc = include_str!("decisions/connections-between-nodes.md")]
    pub mod connections_between_nodes {}
    #[doc = include_str!("decisions/connections-stay-on-one-thread.md")]
    pub mod connections_stay_on_one_thread {}
    #[doc = include_str!("decisions/dependencies.md")]
    pub mod dependencies {}
    #[doc = include_str!("decisions/docs-are-tested.md")]
    pub mod docs_are_tested {}
    #[doc = include_str!("decisions/heartbeats-say-what-was-received.md")]
    pub mod heartbeats_say_what_was_received {}
    #[doc = include_str!("decisions/keys-are-copied-values-are-shared.md")]
    pub mod keys_are_copied_values_are_shared {}
    #[doc = include_str!("decisions/large-files-go-by-slices.md")]
    pub mod large_files_go_by_slices {}
    #[doc = include_str!("decisions/membership-is-a-word.md")]
    pub mod membership_is_a_word {}
    #[doc = include_str!("decisions/meta-is-rewritten-at-each-start.md")]
    pub mod meta_is_rewritten_at_each_start {}
    #[doc = include_str!("decisions/node-id-names-a-disk.md")]
    pub mod node_id_names_a_disk {}
    #[doc = include_str!("decisions/one-map-in-each-log.md")]
    pub mod one_map_in_each_log {}
    #[doc = include_str!("decisions/segments-get-their-names-on-the-log-thread.md")]
    pub mod segments_get_their_names_on_the_log_thread {}
    #[doc = include_str!("decisions/snapshots-are-verified-before-they-have-a-name.md")]
    pub mod snapshots_are_verified_before_they_have_a_name {}
    #[doc = include_str!("decisions/status-codes.md")]
    pub mod status_codes {}
    #[doc = include_str!("decisions/the-answered-are-awaited.md")]
    pub mod the_answered_are_awaited {}
    #[doc = include_str!("decisions/the-client-says-what-was-sent.md")]
    pub mod the_client_says_what_was_sent {}
    #[doc = include_str!("decisions/who-brings-it-makes-the-pass.md")]
    pub mod who_brings_it_makes_the_pass {}
}
