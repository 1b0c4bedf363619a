"""What @hml.function promises, row by row: each row of the table names the tests that show it."""

import ast
import functools
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
CHECKS, FUNCTION, RETRACING, KEYS = (
    f"trace/test_{n}" for n in ("semantics_checks", "function", "retracing", "signature")
)
VARIABLES, TRACING, EFFECTS = (f"trace/test_{n}" for n in ("function_variables", "tracing_errors", "effects"))
AUTOGRAPH, ERRORS, TRAINING = (f"trace/test_autograph{n}" for n in ("", "_errors", "_training"))
CONTROL, GRADIENT, TAPE, EAGER_RANDOM = (
    "trace/test_control",
    "trace/test_gradient",
    "eager/test_tape",
    "eager/test_random",
)
SIZES, MODULES, DATASETS = "trace/test_sizes", "trace/test_module_arguments", "trace/test_datasets"
KEY = f"{FUNCTION}::test_what_makes_a_new_trace"
CONSTRUCT = f"{AUTOGRAPH}::test_construct"
ERROR = f"{ERRORS}::test_error"

ROWS: dict[str, list[str]] = {
    # what makes a new trace
    "same dtype and shape, other values": [f"{KEY}[other values]"],
    "Python int, float, bool, str, None": [
        f"{KEY}[int, float and bool of one value]", f"{KEY}[a string by value]", f"{KEY}[None]",
        f"{KEYS}::test_python_values_key_by_type_and_value", f"{FUNCTION}::test_a_number_needed_by_value_is_traced_for_each",
        f"{FUNCTION}::test_a_number_that_changes_becomes_a_scalar_of_the_graph", f"{TRAINING}::test_weak_numbers_stay_weak",
    ],
    "NumPy array or scalar argument": [f"{KEY}[an array for a tensor]", f"{KEY}[a NumPy scalar for a 0-d tensor]"],
    "defaults and keywords": [f"{FUNCTION}::test_defaults_and_keywords_are_one_trace"],
    "list, tuple, dict, dataclass, Module": [
        f"{KEY}[lists of two lengths]", f"{KEY}[a list for a tuple]", f"{KEY}[dicts in any order]", f"{KEY}[dataclasses]",
        f"{KEY}[nested structures]", f"{MODULES}::test_modules_that_are_alike_share_a_trace_and_keep_their_own_weights",
        f"{MODULES}::test_modules_that_differ_do_not", f"{MODULES}::test_the_first_call_builds_and_runs_the_body_once",
        f"{MODULES}::test_a_changed_attribute_is_another_trace_and_named",
    ],
    "Variable argument": [
        "trace/test_variable_arguments::test_one_trace_for_all_variables_of_a_shape",
        "trace/test_variable_arguments::test_other_shapes_dtypes_and_variables_that_are_not_trained_are_other_traces",
        "trace/test_variable_arguments::test_aliasing",
        f"{VARIABLES}::test_a_variable_as_argument_is_the_same_variable",
    ],
    "any other object": [
        f"{FUNCTION}::test_objects_key_by_identity_and_are_not_kept_alive", f"{KEYS}::test_object_keys_die_with_their_objects",
        "trace/test_changed_values::test_noticed_and_warned_about_once_by_name",
        f"{MODULES}::test_a_changed_attribute_that_the_trace_read_is_noticed_by_name",
    ],
    "method": [
        f"{FUNCTION}::test_methods_have_one_function_an_instance_that_dies_with_it",
        f"{FUNCTION}::test_a_method_of_an_instance_that_nobody_else_holds", f"{TRAINING}::test_methods_of_traced_classes",
        f"{MODULES}::test_a_traced_method_is_one_function_an_instance_and_freed_with_it",
    ],
    "three sizes of one dimension": [
        f"{SIZES}::test_two_traces_for_all_sizes[elementwise]", f"{SIZES}::test_it_can_be_turned_off",
        f"{SIZES}::test_a_size_that_is_needed_as_a_number_has_traces_of_its_own_and_the_line_is_told[range]",
        f"{SIZES}::test_a_comparison_divides_the_sizes", f"{SIZES}::test_an_input_signature_is_general_from_the_first_trace",
        "kernels/test_executable::test_other_sizes_compile_nothing", f"{CHECKS}::test_reduce_retracing_can_be_turned_off",
    ],
    "traces kept": [
        f"{RETRACING}::test_the_trace_used_longest_ago_is_dropped", f"{CHECKS}::test_a_dropped_trace_is_freed",
    ],
    '"why did it retrace?"': [
        f"{RETRACING}::test_a_repeated_retrace_warns_once_naming_argument_old_new_and_cure",
        f"{RETRACING}::test_the_argument_is_named_as_the_function_names_it",
        f"{TRACING}::test_warnings_point_at_the_users_line",
    ],
    "`input_signature` mismatch": [f"{RETRACING}::test_input_signature_errors_name_the_argument"],
    "ConcreteFunction called with a wrong static shape": [f"{TRACING}::test_a_concrete_function_refuses_other_shapes"],
    "decorated in a loop, in a notebook cell re-run, a lambda, a method, a partial, a callable object, no source available": [
        f"{FUNCTION}::test_a_function_made_in_a_loop_keeps_its_own_closure", f"{ERRORS}::test_a_cell_that_is_run_again",
        f"{FUNCTION}::test_lambdas_partials_callable_objects_and_functions_without_source",
        f"{ERRORS}::test_without_source_it_traces_plainly", f"{ERRORS}::test_a_source_that_changed_is_not_used",
    ],
    # variables and side effects
    "Variable created on the first call only": [f"{CHECKS}::test_a_variable_created_on_the_first_call_only"],
    "Variable created on a later trace, at the same source line": [
        f"{VARIABLES}::test_a_variable_created_inside_is_created_once_and_reused_by_later_traces",
        f"{CONTROL}::test_a_variable_made_in_a_branch_is_made_once",
    ],
    "Variable created unconditionally at each call": [
        f"{VARIABLES}::test_a_variable_created_inside_is_created_once_and_reused_by_later_traces",
        "trace/test_builder::test_variables_of_one_line_visited_twice_are_two",
        f"{CHECKS}::test_an_initial_value_that_cannot_be_names_line_and_cure",
    ],
    "Python print, append, nonlocal, `next(it)`": [
        f"{ERRORS}::test_python_side_effects_happen_once_a_trace", f"{DATASETS}::test_next_on_an_iterator_from_outside_pulls_at_each_call",
    ],
    "`hml.print`, assign, `py_function`": [
        f"{EFFECTS}::test_print_each_call_in_program_order", f"{EFFECTS}::test_read_write_read_gives_old_new",
        f"{EFFECTS}::test_effects_do_not_pass_each_other_whatever_they_wait_for",
        f"{VARIABLES}::test_read_assign_read_is_in_program_order",
        f"{TRAINING}::test_variables_in_branches_and_loops_keep_program_order",
    ],
    "`np.random` / library random": [
        f"{CHECKS}::test_numpys_random_numbers_are_frozen", f"{CHECKS}::test_one_seed_gives_the_same_numbers_eager_and_traced",
        f"{CONTROL}::test_random_numbers_differ_between_iterations",
    ],
    "tracer stored outside and used later": [
        f"{TRACING}::test_an_escaped_tracer_says_where_it_was_made_and_where_it_is_used",
        f"{TRACING}::test_an_escaped_tracer_names_what_holds_it",
        f"{CONTROL}::test_a_symbol_of_a_body_does_not_escape",
    ],
    "unused op with a static error (shape, dtype, constant index)": [
        f"{TRACING}::test_static_errors_are_raised_where_nobody_uses_the_result_with_the_users_line",
    ],
    "runtime error inside (index out of range, failed check)": [
        f"{CHECKS}::test_an_index_out_of_range_names_the_line", f"{ERRORS}::test_assert_on_a_tensor_fails_when_it_runs",
        "kernels/test_control_native::test_a_check_inside_a_body_names_the_line_and_spares_variables",
    ],
    # control flow conversion
    "if/elif/else, nested early return, ternary, and/or/not, chained comparison, lambda bodies": [
        f"{CONSTRUCT}[if/elif/else]", f"{CONSTRUCT}[nested early return]", f"{CONSTRUCT}[ternary]", f"{CONSTRUCT}[and/or/not]",
        f"{CONSTRUCT}[chained comparison]", f"{CONSTRUCT}[lambda bodies]", "trace/test_autograph_fuzz::test_program",
    ],
    "while, for over `range(tensor)`, over a tensor's rows, over a Dataset; break, continue; inside with, try/finally": [
        f"{CONSTRUCT}[while]", f"{CONSTRUCT}[for over range(tensor); break, continue]", f"{CONSTRUCT}[for over a tensor's rows]",
        f"{CONSTRUCT}[inside with, try/finally]", f"{DATASETS}::test_traced_as_eager",
        f"{DATASETS}::test_elements_from_tensors_are_one_loop_whatever_their_number", f"{DATASETS}::test_an_epoch_of_training_is_one_call",
        f"{DATASETS}::test_elements_of_other_shapes_are_refused_with_the_cure", f"{ERRORS}::test_a_loop_over_a_dataset_is_unrolled",
    ],
    "`return` inside a tensor loop": [f"{CONSTRUCT}[return inside a tensor loop]"],
    "for-else, while-else, `enumerate(t)`, `zip(t, u)`, `reversed(t)`, walrus in the test, `assert t`, comprehension over a tensor": [
        f"{CONSTRUCT}[for-else, while-else]", f"{CONSTRUCT}[enumerate(t)]", f"{CONSTRUCT}[zip(t, u)]", f"{CONSTRUCT}[reversed(t)]",
        f"{CONSTRUCT}[walrus in the test]", f"{CONSTRUCT}[assert t]", f"{CONSTRUCT}[comprehension over a tensor]",
    ],
    "list append in a tensor loop, then stack": [
        f"{CONSTRUCT}[list append in a tensor loop, then stack]", f"{ERROR}[append_in_a_loop_of_unknown_length]",
    ],
    "Python loops over Python values": [
        f"{CONSTRUCT}[Python loops over Python values]", f"{ERRORS}::test_a_python_loop_past_the_limit_says_so",
    ],
    "variable defined in one branch only; dtype or shape differing between branches or iterations": [
        f"{ERROR}[defined_in_one_branch]", f"{ERROR}[dtype_differs_between_branches]", f"{ERROR}[shape_differs_between_branches]",
        f"{ERROR}[dtype_differs_between_iterations]", f"{ERROR}[shape_differs_between_iterations]",
    ],
    "gradient through cond / while / scan": [
        f"{CONTROL}::test_gradients_agree_with_differences", f"{CONTROL}::test_gradients_inside_a_traced_function",
        f"{TRAINING}::test_gradient_through",
    ],
    "recursion on a Python int / on a tensor condition": [
        f"{CONSTRUCT}[recursion on a Python int]", f"{ERROR}[recursion_on_a_tensor]", f"{ERROR}[recursion_in_a_ternary]",
    ],
    "`.numpy()`, `float(t)`, `np.sin(t)` while tracing": [f"{TRACING}::test_values_asked_of_a_tracer", f"{ERROR}[numpy_value]"],
    "breakpoints, tracebacks": [
        f"{ERRORS}::test_a_debugger_stops_on_the_users_line", f"{ERRORS}::test_lines_of_errors_inside_branches_are_the_users",
        f"{ERRORS}::test_nodes_know_the_users_lines",
    ],
    # the tape
    "unwatched constant; integer variable; gradient through assign; through NumPy": [
        f"{CHECKS}::test_a_gradient_that_is_none_says_why", f"{CHECKS}::test_a_line_says_once_why_its_gradient_is_none",
        f"{GRADIENT}::test_a_gradient_does_not_go_through_an_assignment", f"{TAPE}::test_integers_have_no_gradient",
    ],
    "non-scalar target": [f"{TAPE}::test_targets_are_summed_and_weighed"],
    "non-persistent tape used twice": [f"{TAPE}::test_a_tape_is_used_up_unless_persistent"],
    "nested tapes, second and third order, jvp, forward-over-reverse, jacobian, hessian": [
        f"{TAPE}::test_second_and_third_order", f"{CHECKS}::test_transforms_eager_traced_and_around",
        f"{CONTROL}::test_second_order_inside_a_traced_function",
    ],
    "tape around a `@function`, tape inside it, gradient of a gradient through it": [
        f"{GRADIENT}::test_a_tape_around_is_the_tape_of_eager", f"{GRADIENT}::test_forward_and_backward_graphs",
    ],
    "custom_gradient, checkpoint, py_function inside": [
        "trace/test_custom_gradient::test_traced_equals_eager", "trace/test_checkpoint::test_gradients_are_equal",
        f"{EFFECTS}::test_py_function_is_differentiable",
    ],
}  # fmt: skip


@functools.cache
def words_of(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """The tests of a module, and what may stand in the brackets of one: its strings and its functions."""
    tree = ast.parse((TESTS / f"{module}.py").read_text())
    functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return frozenset(n for n in functions if n.startswith("test_")), frozenset(functions | strings)


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_shown_by_tests_that_exist(row: str) -> None:
    assert ROWS[row]
    for reference in ROWS[row]:
        module, _, test = reference.partition("::")
        name, _, case = test.partition("[")
        tests, cases = words_of(module)
        assert name in tests, f"{module}.py has no {name}"
        assert not case or case.removesuffix("]") in cases, (
            f"{module}.py has no case {case.removesuffix(']')!r}"
        )
