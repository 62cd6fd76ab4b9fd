/* Says what undefined behaviour was met and where, then ends the program: what clang's -fsanitize=undefined calls.
 *
 * Part of sanitized builds with zig only. gcc and clang bring a library for this; zig compiles its own the first time
 * it is wanted, which takes half a minute.
 *
 * The data that every check passes begins with its place in the source.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *file;
    uint32_t line, column;
} place_t;

static _Noreturn void report(const place_t *place, const char *what)
{
    fprintf(stderr, "%s:%lu:%lu: runtime error: %s\n", place->file == NULL ? "?" : place->file,
            (unsigned long)place->line, (unsigned long)place->column, what);
    abort();
}

#define CHECK(name, what)                                                                                              \
    _Noreturn void __ubsan_handle_##name(const place_t *place);                                                        \
    _Noreturn void __ubsan_handle_##name(const place_t *place)                                                         \
    {                                                                                                                  \
        report(place, what);                                                                                           \
    }

CHECK(add_overflow_abort, "signed integer overflow in an addition")
CHECK(sub_overflow_abort, "signed integer overflow in a subtraction")
CHECK(mul_overflow_abort, "signed integer overflow in a multiplication")
CHECK(negate_overflow_abort, "signed integer overflow in a negation")
CHECK(divrem_overflow_abort, "integer division by zero, or its quotient overflows")
CHECK(shift_out_of_bounds_abort, "shift by a count, or of a value, out of bounds")
CHECK(out_of_bounds_abort, "index out of bounds")
CHECK(local_out_of_bounds_abort, "access out of bounds")
CHECK(pointer_overflow_abort, "pointer arithmetic overflows")
CHECK(type_mismatch_v1_abort, "access through a null, misaligned or too short pointer")
CHECK(alignment_assumption_abort, "pointer less aligned than promised")
CHECK(float_cast_overflow_abort, "floating-point value outside the range of the integer type")
CHECK(load_invalid_value_abort, "load of a value that is invalid for its type")
CHECK(vla_bound_not_positive_abort, "array length not positive")
CHECK(invalid_builtin_abort, "invalid argument of a built-in function")
CHECK(nonnull_arg_abort, "null pointer as an argument that must not be null")
CHECK(function_type_mismatch_abort, "call through a pointer to a function of another type")
CHECK(builtin_unreachable, "unreachable code was reached")
CHECK(missing_return, "end of a function without its return value was reached")
