"""The cases of OTP's own supervisor test suite, by name and meaning, as scripts for the policy.

`stage`       plays the processes: events in, actions out; the tree is checked after each event
starts        what a start is: order, ignore, errors at every position, time-outs
stops         order, deadlines, kills, what races with a stop
calls         start, terminate, restart, delete of children; listing and counting them
exits         each restart type with each way to end
intensity     how many restarts are too many
one_for_one, one_for_all, rest_for_one, dynamic    the strategies
significant   children whose end ends their supervisor
escalation    supervisors below supervisors
scale         many children

A test's name begins with the name of its case. The cases of specs and flags (sup_start_map,
sup_start_map_faulty_specs, child_specs, sup_flags) are in `test_spec`, beside what they test.
Those without a meaning for OS processes:

extra_return, simple_one_for_one_extra    a process returns nothing from its start but that it is
    ready; what it is called with is in its spec
do_not_save_start_parameters_for_temporary_children, simple_one_for_one_corruption    there are no
    start parameters beside the spec, and a temporary child's spec goes with it (`dynamic`)
simple_global_supervisor    there is one machine and a supervisor is no process; what is left of it,
    that a whole subtree is new and its names are free again, is in `escalation`
code_change, significant_upgrade    a tree has no code that could change; a changed configuration
    is tested with what reads it
external_start_no_progress_log, format_log_1, format_log_2    about the texts of OTP's logger
child_adm_simple, by pid    a dynamic child has an id here; it is called by that (`dynamic`)
"""
