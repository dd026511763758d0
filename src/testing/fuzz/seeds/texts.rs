//! What is text.

pub(super) const CONFIGS: [&str; 5] = [
    "listen_addr: 127.0.0.1:3213\ndiscovery:\n  mdns: false\n  pkarr_relays: [https://relay.example]\nlimits:\n  connections: 9\n",
    "folders:\n  - path: /tmp/a\n    name: Photos\n    mode: send\n  - path: /tmp/b\n    nmae: twice\n",
    "discovery: {mdns: maybe, dht: true}\nsync_passphrase: \"a b c\"\nallowed_hosts: &all [a, b]\n",
    "\u{feff}# nothing\ncan_service_url: http://127.0.0.1:1\nlimits: &l\n  connections: *l\n",
    "listen_addr: [\n",
];
pub(super) const DISPOSITIONS: [&str; 5] = [
    "form-data; name=\"file\"; filename=\"a%22b.txt\"",
    "form-data; filename=\"_.txt\"; filename*=UTF-8''na%C3%AFve%2022%2522.txt",
    "form-data; filename*=iso-8859-1'en'%A3%20rates",
    r#"form-data; filename="C:\fakepath\say \"hi\".jpg""#,
    "form-data; FileName=plain.txt ; a=b",
];
pub(super) const IGNORED: [&str; 3] = [
    "*.tmp\n!keep.tmp\n/build/\n**/node_modules\n# comment\n\\#file\n[a-z]?.o\n",
    ".can-sync-trash/01790000000000-000102030405060708090a0b0c0d0e0f-name.txt\n",
    "01790000000000-000102030405060708090a0b0c0d0e0f-name.txt\n{a,b}/**/c\n[!x]\n",
];
pub(super) const PATHS: [&str; 6] = [
    "a.txt",
    "Photos/2026/\u{e4}rger.jpg\nmy machine",
    "Photos/a\u{308}rger (laptop 2026-09-21 0909 09090909).jpg\nlaptop",
    "a (file 2b1d1a55).tar.gz",
    ".hidden/.profile",
    "a/\u{200b}.can-sync-x",
];
