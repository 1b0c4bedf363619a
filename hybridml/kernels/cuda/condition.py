"""The kernel that sets a conditional node's value, as PTX.

`cudaGraphSetConditional` is a function of the device that Numba does not know. The driver resolves it when it turns PTX into machine
code, so neither a compiler nor a runtime library has to be there.
"""

from __future__ import annotations

CONDITION = "set_condition"

# (handle for true, handle for false or 0, address of a byte or 0, address of a byte or 0): what of the loop or of the two branches runs
# next. It is the former where the first byte is true, or there is none, and the second is false, or there is none.
_TEXT = """
.version 7.0
.target sm_{target}
.address_size 64

.extern .func cudaGraphSetConditional(.param .b64 handle, .param .b32 value);

.visible .entry set_condition(.param .u64 when_true, .param .u64 when_false, .param .u64 predicate, .param .u64 stop)
{{
    .reg .pred %true, %no_other, %given;
    .reg .b16 %byte, %stopped;
    .reg .b32 %one, %other;
    .reg .b64 %first, %second, %at;
    ld.param.u64 %first, [when_true];
    ld.param.u64 %second, [when_false];
    mov.u16 %byte, 1;
    ld.param.u64 %at, [predicate];
    setp.ne.u64 %given, %at, 0;
    @%given cvta.to.global.u64 %at, %at;
    @%given ld.global.u8 %byte, [%at];
    mov.u16 %stopped, 0;
    ld.param.u64 %at, [stop];
    setp.ne.u64 %given, %at, 0;
    @%given cvta.to.global.u64 %at, %at;
    @%given ld.global.u8 %stopped, [%at];
    setp.eq.u16 %given, %stopped, 0;
    setp.ne.and.u16 %true, %byte, 0, %given;
    selp.u32 %one, 1, 0, %true;
    selp.u32 %other, 0, 1, %true;
    {{
        .param .b64 p0;
        .param .b32 p1;
        st.param.b64 [p0], %first;
        st.param.b32 [p1], %one;
        call.uni cudaGraphSetConditional, (p0, p1);
    }}
    setp.eq.u64 %no_other, %second, 0;
    @%no_other bra DONE;
    {{
        .param .b64 p0;
        .param .b32 p1;
        st.param.b64 [p0], %second;
        st.param.b32 [p1], %other;
        call.uni cudaGraphSetConditional, (p0, p1);
    }}
DONE:
    ret;
}}
"""


def condition_ptx(capability: tuple[int, int]) -> bytes:
    """The kernel for a GPU of this compute capability: PTX of an older one runs on it too."""
    major, minor = min(capability, (8, 0))
    return _TEXT.format(target=10 * major + minor).encode()
