"""Runs a command with faults put into it: `python -m tests.faults.wrong NAME[=VALUE] ... -- train ...`

Accidents happen to a correct program: a NaN, a kill at a given place. Sabotages are mistakes in the program itself.
Each sabotage must make a check in this folder fail, which proves that the check works.
"""

import sys
from collections.abc import Callable

from tests.faults import accidents, sabotaged_checking, sabotaged_resuming, sabotaged_saving

Change = Callable[[str], None]

CHANGES: dict[str, Change] = {
    **{
        change.__name__.replace("_", "-"): change
        for change in (
            accidents.nan_in_batch,
            accidents.die_in_step,
            accidents.die_evaluating,
            accidents.die_sampling,
            accidents.keep_batches,
            accidents.endless_step,
            accidents.truncate_shards_in_step,
            accidents.a_shard_for_each_document,
            accidents.few_open_files,
            accidents.ruined_in_step,
            accidents.stopped_in_set_up,
            accidents.slow_set_up,
            sabotaged_saving.refused_steps_saved,
            sabotaged_saving.newest_checkpoint_alone_kept,
            sabotaged_saving.new_folders_not_flushed,
            sabotaged_saving.no_fsync_of_files,
            sabotaged_saving.no_fsync_of_folders,
            sabotaged_saving.old_checkpoint_dropped_first,
            sabotaged_saving.committed_before_the_weights,
            sabotaged_saving.failed_saves_are_silent,
            sabotaged_resuming.lock_taken_after_the_set_up,
            sabotaged_resuming.records_not_cut_back,
            sabotaged_resuming.records_not_flushed,
            sabotaged_resuming.signals_end_at_once,
            sabotaged_resuming.due_checks_forgotten,
            sabotaged_resuming.best_weights_not_measured_again,
            sabotaged_resuming.second_signal_ignored,
            sabotaged_resuming.save_on_demand_forgotten,
            sabotaged_resuming.samples_moved_to_documents,
            sabotaged_resuming.pass_begun_again,
            sabotaged_resuming.signals_answered_with_print,
            sabotaged_resuming.failed_output_ends_the_run,
            sabotaged_resuming.characters_not_escaped,
            sabotaged_resuming.lock_not_taken,
            sabotaged_checking.hashes_of_arrays_ignored,
            sabotaged_checking.structure_not_limited,
            sabotaged_checking.hash_of_the_text_ignored,
            sabotaged_checking.hash_of_the_tokenizer_ignored,
            sabotaged_checking.report_of_the_tokenizer_ignored,
            sabotaged_checking.checksums_of_records_ignored,
            sabotaged_checking.text_of_an_unfinished_download_not_hashed,
            sabotaged_checking.hash_of_the_records_ignored,
            sabotaged_checking.shards_not_verified,
            sabotaged_checking.shards_mapped,
            sabotaged_checking.shards_stay_open,
            sabotaged_checking.not_finite_but_applied,
            sabotaged_checking.refused_steps_not_counted,
        )
    },
    "written-in-place": sabotaged_saving.replacing_with(in_place=True),
    "renamed-before-it-is-whole": sabotaged_saving.replacing_with(early=True),
    "temporary-files-left": sabotaged_saving.replacing_with(tidy=False),
}


def apply(words: list[str]) -> None:
    """Put these faults into this process."""
    for word in words:
        name, _, value = word.partition("=")
        CHANGES[name](value)


def main() -> int:
    from homespun.cli.main import main

    end = sys.argv.index("--")
    apply(sys.argv[1:end])
    return main(sys.argv[end + 1 :])


if __name__ == "__main__":
    sys.exit(main())
