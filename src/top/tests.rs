//! The whole of it without a cluster and without a terminal: made-up looks in, keys in, a screen out.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};
use serde_json::{Value, json};

use super::{
    draw::{Theme, draw, page},
    look::Look,
    picture::Picture,
    plain,
    screen::{FILTER_CHARS_MAX, Over, Screen, Then},
    table::Kind,
};

fn member(name: &str, role: &str, n: u8, state: &str) -> Value {
    json!({"name": name, "role": role, "addr": format!("127.89.1.{n}:7946"), "port": 8080,
        "admin_port": 9790, "state": state, "instance": n})
}

/// The members of a small cluster: one endpoint drains, another fails its check.
fn members() -> Value {
    let mut members = vec![
        member("proxyserver", "proxyserver", 1, "ready"),
        member("frontserver1", "frontserver", 2, "ready"),
        member("frontserver2", "frontserver", 3, "draining"),
        member("frontserver10", "frontserver", 4, "unhealthy"),
        member("appserver1", "appserver", 5, "ready"),
    ];
    members[3]["check"] = json!("HTTP 503");
    members[4]["tags"] = json!({"zone": "a"});
    json!(members)
}

fn end(node: &str, n: u8, in_flight: u32, requests: u64, failures: u64, ejected: bool) -> Value {
    json!({"node": node, "instance": n, "addr": format!("127.89.1.{n}:8080"), "in_flight": in_flight,
        "requests": requests, "failures": failures, "timed": requests, "timed_us": requests * 700,
        "ejected": ejected, "ejections": u8::from(ejected)})
}

/// What is told after so many seconds in which each front was asked a hundred times a second.
fn loads(seconds: u64) -> Value {
    let n = 100 * seconds;
    json!({"at_ms": 1_000_000 + 1000 * seconds, "missing": {"frontserver10": "did not answer in time"}, "nodes": [
        {"node": "proxyserver", "roles": [{"role": "frontserver", "queued": 2, "answered": 3 * n, "errors": n / 10,
            "retries": n / 20, "times_us": {"447": n, "1023": n, "20479": n / 20},
            "endpoints": [end("frontserver1", 2, 4, n, 0, false), end("frontserver2", 3, 3, n, 0, false),
                end("frontserver10", 4, 0, n, n / 10, true)]}]},
        {"node": "frontserver2", "held_up_by": ["proxyserver"], "roles": []},
        {"node": "frontserver1", "roles": [{"role": "appserver", "queued": 0, "answered": n, "errors": 0,
            "times_us": {"255": n}, "endpoints": [end("appserver1", 5, 1, n, 0, false)]}]},
    ]})
}

fn look_with(members: &Value, loads: &Value) -> Look {
    let state = json!({"node": "proxyserver", "cluster": "default", "members": members});
    Look::read(&state.to_string(), &loads.to_string()).unwrap()
}

fn look(seconds: u64) -> Look {
    look_with(&members(), &loads(seconds))
}

fn picture() -> Picture {
    Picture::of(Some(&look(5)), &look(7))
}

fn screen() -> Screen {
    let mut screen = Screen::default();
    screen.show(picture());
    screen
}

/// The lines that a terminal of this size shows.
fn shown(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen, Theme { has_colours: false })).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn press(screen: &mut Screen, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            key => KeyCode::Char(key),
        };
        let page = page(screen, 24);
        screen.press(KeyEvent::new(code, KeyModifiers::NONE), page);
    }
}

fn position(lines: &[String], words: &str) -> usize {
    lines.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words:?}: {lines:#?}"))
}

#[test]
fn rates_are_differences_between_two_looks() {
    let picture = picture();
    assert_eq!(picture.seconds, Some(2.0));
    let front = picture.roles.iter().find(|role| role.role.as_str() == "frontserver").unwrap();
    let traffic = front.traffic.as_ref().unwrap();
    assert_eq!((front.ready, front.nodes), (1, 3));
    assert_eq!((traffic.rate, traffic.error_rate, traffic.retry_rate), (Some(300.0), Some(10.0), Some(5.0)));
    assert_eq!((traffic.p50_us, traffic.p99_us), (Some(1023), Some(20479)));
    assert_eq!((traffic.in_flight, traffic.queued), (7, 2));
    let own = picture.roles.iter().find(|role| role.role.as_str() == "proxyserver").unwrap();
    assert_eq!(own.traffic.as_ref().unwrap().rate, Some(300.0), "of whom nobody asks, what it answers");
    let node = picture.nodes.iter().find(|node| node.member.name.as_str() == "frontserver10").unwrap();
    let asked = node.asked.as_ref().unwrap();
    assert_eq!((asked.rate, asked.failure_rate, asked.mean_us), (Some(100.0), Some(10.0), Some(700)));
    assert_eq!((asked.ejected_by.len(), asked.ejections), (1, 1));
}

#[test]
fn after_the_first_look_and_for_what_is_new_there_are_no_rates_and_what_has_shrunk_began_anew() {
    let first = Picture::of(None, &look(5));
    let front = first.roles[1].traffic.as_ref().unwrap();
    assert_eq!((front.rate, front.p50_us, front.in_flight), (None, None, 7));
    let same = Picture::of(Some(&look(5)), &look(5));
    assert_eq!(same.seconds, None, "the same is told again");
    let empty = look_with(&members(), &json!({"at_ms": 1_000_000, "nodes": [], "missing": {}}));
    let new = Picture::of(Some(&empty), &look(5));
    assert_eq!(new.roles[1].traffic.as_ref().unwrap().rate, Some(0.0));
    let mut later = look(1);
    later.loads.at_ms = look(7).loads.at_ms + 1000;
    let anew = Picture::of(Some(&look(7)), &later);
    assert_eq!(anew.roles[1].traffic.as_ref().unwrap().rate, Some(300.0), "a hundred of each since it began");
}

#[test]
fn eighty_columns_show_roles_nodes_and_proxies_with_states_in_words() {
    let lines = shown(&screen(), 80, 24);
    let text = lines.join("\n");
    for words in [
        "default · seen by proxyserver · 5 nodes: 3 ready, 1 unhealthy, 1 draining",
        "frontserver   1 of 3        300 1.0 ms  20 ms    7     2    10     5.0",
        "frontserver1  ● ready       100 700 µs    4     0     0",
        "frontserver2  ▼ draining    100 700 µs    3     0     0 waits: proxyserver (3)",
        "frontserver10 ◆ unhealthy   100 700 µs    0    10     1 HTTP 503",
        "proxyserver   ● ready         –      –    –     –     –",
        "without the load of frontserver10",
        "? help  q quit  / filter",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
    assert!(position(&lines, "frontserver2  ▼") < position(&lines, "frontserver10 ◆"), "by their numbers");
    let wide = shown(&screen(), 120, 40).join("\n");
    assert!(wide.contains("waits: proxyserver (3)"), "{wide}");
}

#[test]
fn keys_sort_filter_pause_and_open() {
    let mut screen = screen();
    // By requests, and by name where these are equal; then by errors.
    press(&mut screen, "ss");
    let lines = shown(&screen, 80, 24);
    assert!(lines[position(&lines, "NODES")].contains("▾req/s"), "{lines:#?}");
    press(&mut screen, "sss");
    let lines = shown(&screen, 80, 24);
    assert!(lines[position(&lines, "NODES")].contains("▾err/s"), "{lines:#?}");
    assert!(position(&lines, "frontserver10 ◆") < position(&lines, "appserver1 "), "{lines:#?}");
    press(&mut screen, "r");
    let lines = shown(&screen, 80, 24);
    assert!(position(&lines, "frontserver10 ◆") > position(&lines, "appserver1 "), "{lines:#?}");

    press(&mut screen, "/zone=a");
    assert!(shown(&screen, 80, 24)[23].starts_with("filter: zone=a "));
    press(&mut screen, "\n");
    let lines = shown(&screen, 80, 24);
    assert!(lines[position(&lines, "NODES")].contains("NODES 1"), "{lines:#?}");
    position(&lines, "> appserver1 ".trim_start_matches("> "));
    press(&mut screen, "\n");
    assert_eq!(screen.over, Over::Details("appserver1".into(), 0));
    let lines = shown(&screen, 80, 24);
    for words in ["appserver1 · default · ", "tags       zone=a", "asked by", "  frontserver1 "] {
        position(&lines, words);
    }
    press(&mut screen, "\x1b\x1b");
    assert_eq!((screen.over.clone(), screen.filter.as_str()), (Over::Nothing, ""));

    press(&mut screen, " ");
    screen.show(Picture::of(None, &look(9)));
    assert_eq!(screen.picture.as_ref().unwrap().seconds, Some(2.0), "it stands still");
    assert!(shown(&screen, 80, 24)[1].contains("PAUSED"));
    press(&mut screen, " ");
    screen.show(Picture::of(None, &look(9)));
    assert_eq!(screen.picture.as_ref().unwrap().seconds, None);

    press(&mut screen, "?");
    assert!(shown(&screen, 80, 24).join("\n").contains("how often a node was spared"));
    press(&mut screen, "q");
    assert_eq!(screen.over, Over::Nothing, "any key goes back, and ends nothing");
    for (code, modifiers, then) in [
        (KeyCode::Char('q'), KeyModifiers::NONE, Then::Quit),
        (KeyCode::Char('c'), KeyModifiers::CONTROL, Then::Quit),
        (KeyCode::Char('z'), KeyModifiers::CONTROL, Then::Suspend),
        (KeyCode::Char('l'), KeyModifiers::CONTROL, Then::Redraw),
        (KeyCode::Char('q'), KeyModifiers::CONTROL, Then::GoOn),
    ] {
        assert_eq!(screen.press(KeyEvent::new(code, modifiers), 10), then, "{code:?}");
    }
}

#[test]
fn a_role_opens_as_its_nodes_and_who_is_chosen_stays_chosen() {
    let mut screen = screen();
    press(&mut screen, "\t\t↓\n");
    assert_eq!((screen.focus, screen.filter.as_str()), (Kind::Nodes, "frontserver"));
    press(&mut screen, "\x1b↓↓");
    let chosen = screen.panels[Kind::Nodes as usize].chosen.clone();
    assert_eq!(chosen.as_deref(), Some("frontserver2"));
    press(&mut screen, "sr");
    let lines = shown(&screen, 80, 24);
    assert!(lines[position(&lines, "▼ draining")].starts_with(">frontserver2"), "{lines:#?}");
    press(&mut screen, "↑↑↑↑↑↑↑↑↑↑↓↓↓↓↓↓↓↓↓↓↓↓");
    assert!(screen.panels[Kind::Nodes as usize].chosen.is_some());
}

#[test]
fn what_others_have_chosen_moves_no_terminal_and_breaks_no_column() {
    let mut members = members();
    members[3]["check"] = json!("\x1b[2J\r\n\u{202e}evil 測試測試測試測試測試測試測試測試測試 \u{9b}31m");
    members[4]["tags"] = json!({"note": "全角 \u{301}\u{301}\u{200b}"});
    let mut loads = loads(7);
    loads["missing"]["frontserver10"] = json!("\x1b[31m\nforged");
    let hostile = look_with(&members, &loads);
    let mut screen = Screen::default();
    screen.show(Picture::of(Some(&look(5)), &hostile));
    screen.trouble = Some("no answer: \x1b[2J\n".into());
    press(&mut screen, "/\u{7}\x1b");
    let assert_tame = |screen: &Screen| {
        for (width, height) in [(80, 24), (40, 8), (120, 40), (200, 60)] {
            let lines = shown(screen, width, height);
            assert!(!lines.join("").contains(|c: char| c.is_control() || c == '\u{202e}'), "{lines:#?}");
        }
    };
    assert_tame(&screen);
    for name in ["frontserver10", "appserver1"] {
        screen.over = Over::Details(name.into(), 0);
        assert_tame(&screen);
    }
    let text = plain::text(screen.picture.as_ref().unwrap());
    assert!(!text.contains(|c: char| c != '\n' && c.is_control()), "{text:?}");
    let long = members[0]["name"].as_str().unwrap().len();
    members[0]["name"] = json!("n".repeat(63));
    let mut screen = Screen::default();
    screen.show(Picture::of(None, &look_with(&members, &json!({"at_ms": 1, "nodes": [], "missing": {}}))));
    let lines = shown(&screen, 80, 24);
    assert!(long < 63 && lines[position(&lines, "nnn…")].contains("● ready"), "{lines:#?}");
}

#[test]
fn a_filter_has_an_end() {
    let mut screen = screen();
    press(&mut screen, "/");
    for (more, length) in [(FILTER_CHARS_MAX, FILTER_CHARS_MAX), (1, FILTER_CHARS_MAX)] {
        press(&mut screen, &"x".repeat(more));
        assert_eq!(screen.filter.chars().count(), length);
    }
    press(&mut screen, "\x08");
    assert_eq!(screen.filter.chars().count(), FILTER_CHARS_MAX - 1);
}

#[test]
fn any_size_of_terminal_is_drawn_on() {
    let mut screens = [Screen::default(), screen(), screen(), screen(), screen()];
    screens[2].over = Over::Help;
    screens[3].over = Over::Details("frontserver1".into(), 3);
    screens[4].over = Over::Details("gone".into(), 0);
    for screen in &screens {
        for (width, height) in [(1, 1), (39, 24), (80, 7), (40, 8), (80, 24), (300, 100)] {
            shown(screen, width, height);
        }
    }
    assert_eq!(shown(&screens[1], 39, 24)[0], "40 × 8 at least");
    assert_eq!(shown(&screens[1], 80, 7)[0], "40 × 8 at least");
    assert!(shown(&screens[1], 40, 8)[0].starts_with("default · seen by"));
    // What is chosen is seen, however small it is.
    let mut small = screen();
    press(&mut small, "↓↓↓");
    let lines = shown(&small, 80, 10);
    assert!(lines.iter().any(|line| line.starts_with(">frontserver10")), "{lines:#?}");
}

#[test]
fn help_fits_and_colours_are_there_unless_they_are_not_wanted() {
    let mut help = screen();
    press(&mut help, "?");
    let lines = shown(&help, 80, 24);
    assert!(lines.iter().any(|line| line.contains("✕ failed")), "{lines:#?}");
    for (has_colours, colours) in [(true, 4), (false, 1)] {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &screen(), Theme { has_colours })).unwrap();
        let buffer = terminal.backend().buffer();
        let seen: std::collections::BTreeSet<String> =
            buffer.content.iter().map(|cell| format!("{:?} {:?}", cell.fg, cell.bg)).collect();
        assert_eq!(seen.len(), colours, "{seen:?}");
        assert!(buffer.content.iter().all(|cell| cell.bg == Color::Reset));
    }
}

#[test]
fn plain_text_says_the_same_with_nothing_cut_off() {
    let text = plain::text(&picture());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "default · seen by proxyserver · 5 nodes: 3 ready, 1 unhealthy, 1 draining");
    assert!(lines.iter().any(|line| line.ends_with(" waits: proxyserver (3)")), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("proxyserver   ● ready       300")), "{text}");
    assert!(!text.contains('\u{1b}') && lines.iter().all(|line| *line == line.trim_end()), "{text}");
    let value = serde_json::to_value(picture()).unwrap();
    assert_eq!(value["nodes"][2]["waits_for"], json!({"proxyserver": 3}));
    assert_eq!(value["proxies"][0]["traffic"]["p99_us"], 20479);
}
