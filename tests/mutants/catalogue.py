"""
One planted defect per rule of an honest lease, and the tests that must notice it.

An edit replaces a text that has to occur exactly once, so that a refactoring that moves it fails loudly here.
"""

from __future__ import annotations

from dataclasses import dataclass

ACQUIRING = "backends/acquiring.py"
LEASES = "backends/leases.py"
LOSSES = "backends/losses.py"
CURSORS = "backends/cursors.py"
READING = "backends/reading.py"
TRANSACTIONS = "backends/transactions.py"


@dataclass(frozen=True)
class Mutant:
    name: str
    rule: str
    edits: tuple[tuple[str, str, str], ...]
    """File below django_dbpool, text, replacement."""
    killers: tuple[str, ...]
    """Tests of which at least one must fail."""


MUTANTS = (
    Mutant(
        "a cursor acts on whatever lease its wrapper has now",
        "1: a lease has a generation",
        (
            (
                CURSORS,
                "return self.db._entry is self.entry and self.entry.generation == self.generation",
                "return True",
            ),
        ),
        ("tests/integration/test_cursors.py",),
    ),
    Mutant(
        "a server-side cursor does not hold its connection",
        "2: what still streams holds",
        ((LEASES, "        entry.streams += 1\n        self._hold += 1\n", "        entry.streams += 1\n"),),
        ("tests/integration/test_lost_writes.py", "tests/integration/test_cursors.py"),
    ),
    Mutant(
        "a statement outside autocommit ends the lease",
        "3: manual transactions are held until commit or rollback",
        (
            (
                LEASES,
                "        if self._hold or self.in_atomic_block or not self.autocommit:\n",
                "        if self._hold or self.in_atomic_block:\n",
            ),
            (LEASES, "        if status == IDLE:\n", "        if status != UNKNOWN:\n"),
        ),
        ("tests/integration/test_manual_transactions.py",),
    ),
    Mutant(
        "atomic() takes its connection on entry",
        "4: the first statement takes the connection",
        (
            (
                TRANSACTIONS,
                "        return self.autocommit if self._pooled",
                "        self.ensure_connection()\n        return self.autocommit if self._pooled",
            ),
        ),
        ("tests/integration/test_transactions.py::test_no_connection_before_the_first_statement",),
    ),
    Mutant(
        "the lease lasts while commit hooks run",
        "5: the lease ends before the hooks",
        (
            (
                LEASES,
                "        self._undone += 1\n        entry = self._entry\n",
                "        return\n        entry = self._entry\n",
            ),
            (
                TRANSACTIONS,
                "            self.autocommit = True\n            self._end_statement()\n",
                "            self.autocommit = True\n",
            ),
        ),
        ("tests/integration/test_commit_hooks.py::test_slow_hook_holds_nothing",),
    ),
    Mutant(
        "SET does not pin",
        "6: session state pins",
        (("pool/session_state.py", '        return f"SET {second}".rstrip()\n', "        return None\n"),),
        ("tests/unit/test_session_state.py", "tests/integration/test_session_state.py"),
    ),
    Mutant(
        "a pinned connection is lent on",
        "6: a pinned connection is never handed on",
        (
            (
                ACQUIRING,
                "discard = discard or entry.pinned is not None or entry.streams > 0",
                "discard = discard or entry.streams > 0",
            ),
        ),
        ("tests/integration/test_session_state.py",),
    ),
    Mutant(
        "the time zone is set after connecting only",
        "8: time zone and role are in the start-up packet",
        (("backends/startup.py", "        if self.timezone_name:\n", "        if not self.timezone_name:\n"),),
        ("tests/integration/test_django_settings.py::test_assume_role_and_time_zone_on_every_connection",),
    ),
    Mutant(
        "connection_created is sent at each lease",
        "9: once per physical connection",
        ((ACQUIRING, "        entry.initialized_for = receivers\n", "        entry.initialized_for = -1\n"),),
        ("tests/integration/test_django_settings.py::test_connection_created_once_per_physical_connection",),
    ),
    Mutant(
        "a forked child keeps its parent's pools",
        "10: a pool belongs to a pid",
        (
            (
                "pool/registry.py",
                "    os.register_at_fork(after_in_child=_forget_inherited)\n",
                "    os.register_at_fork(after_in_child=lambda: None)\n",
            ),
        ),
        ("tests/faults/test_fork.py::test_two_processes_share_no_connection",),
    ),
    Mutant(
        "the lease of a thread that ended is not reclaimed",
        "10: a dead thread's lease is reclaimed",
        (
            (
                "pool/housekeeping.py",
                "            if holder is None or entry.generation != generation or entry not in pool.entries:\n",
                "            if True:\n",
            ),
        ),
        ("tests/unit/test_background.py",),
    ),
    Mutant(
        "a wake-up is lost",
        "the gate: what is given back while a caller queues up reaches it",
        (
            ("core/gate.py", "line before this one.\n            self._serve()\n", "line before this one.\n"),
            (
                "core/gate.py",
                "                self._serve()\n                if ticket.granted",
                "                if ticket.granted",
            ),
        ),
        ("tests/unit/test_gate.py::test_an_entry_given_back_while_the_caller_queues_up_is_not_overlooked",),
    ),
    Mutant(
        "ordinary callers are given the reserve",
        "the reserve is for those who are marked",
        (
            (
                "core/gate.py",
                "elif ticket.rank != RESERVED or not self._grant_reserve(ticket):",
                "elif not self._grant_reserve(ticket):",
            ),
        ),
        ("tests/unit/test_gate_admission.py", "tests/faults/test_admission_reserve.py"),
    ),
    Mutant(
        "the end of a lease does not free its group's place",
        "limits of groups: the place comes back however the lease ends",
        (("pool/managed.py", "        if ticket is not None:\n            self.gate.leave(ticket)\n", ""),),
        ("tests/faults/test_admission_groups.py",),
    ),
    Mutant(
        "threads that wait for each other are taken for an overload",
        "a queue that is short for the number of connections is never shed",
        (("core/codel.py", "if waiting < self.crowd and not self.slow:", "if False:"),),
        ("tests/unit/test_gate_admission.py",),
    ),
    Mutant(
        "the end of a cancelled statement does not wait for its cancellation",
        "10: a cancel never hits the next statement",
        (("pool/command.py", "    if not cancellation.done.wait(PATIENCE):\n", "    if False:\n"),),
        ("tests/faults/test_command_timeout.py",),
    ),
    Mutant(
        "a statement that is over is cancelled",
        "10: a cancel never hits the next borrower",
        (("pool/command.py", "    if command.over():\n        cancellation.done.set()\n        return None\n", ""),),
        ("tests/faults/test_command_timeout.py",),
    ),
    Mutant(
        "a variable set inside a transaction is taken for set",
        "7: declared variables hold whatever becomes of the transaction",
        (
            (
                "core/session.py",
                "self.doubtful = self.doubtful | names if in_transaction else frozenset()",
                "self.doubtful = frozenset()",
            ),
        ),
        ("tests/integration/test_session_variables.py",),
    ),
    Mutant(
        "the next borrower finds the variables of the last one",
        "7: declared variables are set where the connection's differ",
        (("core/session.py", "        changes |= {name: None for name in values if name not in wanted}\n", ""),),
        ("tests/integration/test_session_variables.py", "tests/integration/test_tenants.py"),
    ),
    Mutant(
        "a write is repeated",
        "retry: reads of the ORM only",
        ((CURSORS, "        if sql is self.db._read or (", "        if sql or ("),),
        ("tests/integration/test_read_retry.py",),
    ),
    Mutant(
        "what was interrupted is repeated",
        "retry: nothing that somebody stopped",
        (
            (
                READING,
                "        except (OperationalError, InterfaceError) as error:\n",
                "        except BaseException as error:\n",
            ),
        ),
        ("tests/integration/test_read_retry.py",),
    ),
    Mutant(
        "a lost write outside of a transaction is said not to have happened",
        "losses: maybe_committed is true for an autocommit statement that may write",
        ((LOSSES, 'else "write"\n\n\ndef simplified', 'else "read"\n\n\ndef simplified'),),
        ("tests/unit/test_losses.py", "tests/faults/test_connection_lost.py"),
    ),
    Mutant(
        "a lost COMMIT is said to have been rolled back",
        "losses: nobody knows what became of it",
        ((LOSSES, '            return "commit"\n', '            return "transaction"\n'),),
        ("tests/unit/test_losses.py", "tests/faults/test_connection_lost.py"),
    ),
    Mutant(
        "a lost COMMIT of a transaction that was lost before is said to be in doubt",
        "losses: what was never sent did not happen",
        ((LOSSES, "    if statement is None or before == UNKNOWN:\n", "    if statement is None:\n"),),
        ("tests/unit/test_losses.py", "tests/faults/test_connection_lost.py"),
    ),
    Mutant(
        "a connection that its user has closed is said to be lost",
        "losses: by other hands than ours",
        ((LOSSES, "    return entry.conn.broken  #", "    return True  #"),),
        ("tests/faults/test_connection_lost.py",),
    ),
    Mutant(
        "a pinned connection that was lost is replaced behind its holder's back",
        "losses: what another connection could not keep is not given up",
        (
            (
                LEASES,
                "self._initializing or entry.pinned or entry.streams):\n            if not entry.stopped",
                "self._initializing or entry.streams):\n            if not entry.stopped",
            ),
        ),
        ("tests/faults/test_connection_lost.py",),
    ),
    Mutant(
        "after a crash the server is believed",
        "commit_status: an id that had not reached the disk is given again",
        (("pool/commit_status.py", "            if found != history:\n", "            if False:\n"),),
        ("tests/faults/test_commit_status.py::test_an_id_is_given_twice",),
    ),
    Mutant(
        "a transaction in progress is taken for rolled back",
        "commit_status: never claims what the server does not say",
        (
            (
                "pool/commit_status.py",
                'return status if status in ("committed", "aborted") else "unknown"',
                'return "committed" if status == "committed" else "aborted"',
            ),
            ("pool/commit_status.py", '            if status != "in progress":\n', "            if True:\n"),
        ),
        ("tests/faults/test_commit_status.py::test_committed",),
    ),
    Mutant(
        "a transaction that is read-only on purpose drains the pool",
        "25006: only on a server that has become a standby",
        (("pool/standby.py", "or not in_recovery(entry.conn)", ""),),
        ("tests/faults/test_failover.py",),
    ),
    Mutant(
        "a connection whose lease is aimed at is lent on",
        "cancel and terminate: never a wrong victim",
        (("pool/aiming.py", "        self.entry.expires_at = -math.inf  # before", "        pass  # before"),),
        ("tests/faults/test_aiming.py::test_what_was_aimed_at_serves_nobody_else",),
    ),
    Mutant(
        "any session with the process id is taken for the lease's",
        "cancel and terminate: never a wrong victim",
        (("pool/aiming.py", "            return bool(port == row.client_port)", "            return True"),),
        ("tests/faults/test_aiming.py::test_process_id_of_another_session",),
    ),
    Mutant(
        "an aim at a lease hits the one after it",
        "cancel and terminate: never a wrong victim",
        (("pool/aiming.py", "return entry.generation == self.generation and entry", "return entry"),),
        ("tests/faults/test_aiming.py::test_next_lease_of_the_same_connection",),
    ),
    Mutant(
        "work in a thread keeps its connections",
        "threads: connections are given back whatever happens",
        (("threads.py", "                _close(connection)\n", "                pass\n"),),
        ("tests/integration/test_threads.py",),
    ),
    Mutant(
        "what was written into shared metrics is written again",
        "metrics: exact over several processes",
        (
            (
                "contrib/prometheus/shared.py",
                "            value.inc(more)\n            self._written[key] = number\n",
                "            value.inc(more)\n",
            ),
        ),
        ("tests/unit/test_prometheus.py::test_processes_add_up",),
    ),
    Mutant(
        "a process is forked while its metrics are written",
        "fork: a child never waits for a thread that it doesn't have",
        (
            (
                "contrib/prometheus/shared.py",
                "before=_before_fork, after_in_parent=_in_parent, after_in_child",
                "after_in_child",
            ),
        ),
        ("tests/unit/test_prometheus.py::test_fork_waits_for_who_writes",),
    ),
    Mutant(
        "the last numbers of a process are lost",
        "metrics: a process that ends well loses nothing",
        (
            ("pool/stopping.py", "reporter.finish(reporter.PATIENCE)  # the", "pass  # the"),
            ("pool/registry.py", "timeout=1.0)\n    reporter.finish(reporter.PATIENCE)\n", "timeout=1.0)\n"),
        ),
        ("tests/integration/test_prometheus.py::test_processes_that_share_a_directory",),
    ),
    Mutant(
        "a lease and its wait are counted one after the other",
        "metrics: no count ever becomes less",
        (
            (
                "core/tally.py",
                "        with self._lock:  # both",
                "        count_lease(entry, held)\n        with self._lock:  # both",
            ),
            (
                "core/tally.py",
                "                count_lease(entry, held)\n            else:",
                "                pass\n            else:",
            ),
        ),
        ("tests/unit/test_tally.py::test_lease_and_its_wait_are_counted_together",),
    ),
    Mutant(
        "a runner that was given up goes on",
        "batches: a run has one runner",
        (("batch/book.py", "AND token = %s AND NOT finished", "AND %s <> '' AND NOT finished"),),
        ("tests/integration/test_batch_runs.py::test_the_one_that_was_given_up_is_fenced_off",),
    ),
    Mutant(
        "a runner that lives is replaced",
        "batches: a run has one runner",
        (("batch/claiming.py", "age < self.takeover_after:", "age < 0:"),),
        ("tests/integration/test_batch_runs.py::test_dead_runner_is_replaced_after_a_while",),
    ),
    Mutant(
        "a part begins with the first row",
        "batches: each row once",
        (("batch/working.py", "self.place.last or self.place.lower,", "self.place.last,"),),
        ("tests/integration/test_batch_parts.py::test_every_row_once_by_several_runners",),
    ),
    Mutant(
        "a run ends with its first part",
        "batches: each row once",
        (("batch/book.py", "if not parts.filter(finished=False).exists():", "if parts.exists():"),),
        ("tests/integration/test_batch_parts.py::test_the_run_ends_with_its_last_part",),
    ),
    Mutant(
        "a batch whose COMMIT was not answered is done again",
        "batches: each row once",
        (("batch/failing.py", "        if committed:\n", "        if committed and not self._book:\n"),),
        ("tests/faults/test_batch.py::test_commit_without_an_answer_that_succeeds",),
    ),
)
