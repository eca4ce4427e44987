//! The role's process as the node sees it: whether it runs, whether it passes its check, and what its end means.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use feed::Name;
use tokio::{sync::mpsc, task::spawn_local};
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Event};
use crate::{
    cluster::{input::Input, trouble::Trouble},
    config::{Args, Check},
    node::{
        check::{self, Damping, Watch},
        role::{News, Plan, Role},
        supervise::{Children, Exit},
    },
};

impl Driver {
    /// Takes news of the role's process; the exit code, if they end the node.
    pub(super) fn handle_role(&mut self, news: News) -> Option<ExitCode> {
        match news {
            News::Over(exit) => return Some(self.handle_role_ended(exit)),
            News::Down => {
                // Its sockets are kept, and take connections: a check of the port would pass.
                self.watching = None;
                self.input(Input::CheckFails(Trouble::Down));
            }
            News::Up => self.watching = Some(watch_role(&self.watch, &self.events)),
        }
        None
    }

    /// The role's process ended by itself; the exit code for that. While the node leaves, that is part of leaving.
    fn handle_role_ended(&mut self, exit: Exit) -> ExitCode {
        let is_meant = self.membership.is_leaving() && exit.is_clean();
        if is_meant {
            tracing::warn!(status = %exit, "the role's process ended before the drain was over");
        } else {
            tracing::error!(status = %exit, "the role's process ended");
        }
        self.input(Input::RoleDied);
        if is_meant { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Starts the role's process, if the node has one.
pub(super) fn start_role(args: &Args, node: &Name) -> anyhow::Result<Role> {
    let feed = args.feed.display().to_string();
    let plan = Plan {
        command: args.command.clone(),
        envs: vec![("CONCERTINA_NODE", node.to_string()), ("CONCERTINA_FEED", feed)],
        restart: args.restart,
        stop_signal: args.stop_signal,
    };
    let command = args.command.first().map_or("nothing", String::as_str);
    Role::start(plan).with_context(|| format!("cannot run {command}"))
}

/// The check of the role's process.
pub(super) fn watch(args: &Args, check: Check, gossip: SocketAddr, children: Children) -> Watch {
    Watch {
        check,
        addr: check::address(gossip, args.port),
        timeout: args.check_timeout,
        damping: Damping { interval: args.check_interval, rise: args.check_rise, fall: args.check_fall },
        children,
    }
}

/// Checks it for as long as the handle lives.
pub(super) fn watch_role(watch: &Watch, events: &mpsc::UnboundedSender<Event>) -> AbortOnDropHandle<()> {
    let events = events.clone();
    let watching = watch.clone().run(move |news| drop(events.send(Event::Check(news))));
    AbortOnDropHandle::new(spawn_local(watching))
}
