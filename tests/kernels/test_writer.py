"""Our writer of LLVM code beside llvmlite's builder: from the same calls LLVM makes the same object code."""

import pytest
from llvmlite import ir

from hybridml.kernels import llvm
from hybridml.kernels.language import build
from hybridml.kernels.writer import Builder, Function, Module

BIT, I8, I16, I32, I64 = [ir.IntType(n) for n in (1, 8, 16, 32, 64)]
HALF, F32, F64, VOID = ir.HalfType(), ir.FloatType(), ir.DoubleType(), ir.VoidType()
F32X4, I64X4, I32X4 = [ir.VectorType(t, 4) for t in (F32, I64, I32)]


def binary(name, kind, **how):
    return [kind, kind], kind, lambda b, x, y: getattr(b, name)(x, y, **how)


def compared(name, sign, kind, vector=False):
    result = ir.VectorType(BIT, 4) if vector else BIT
    return [kind, kind], result, lambda b, x, y: getattr(b, name)(sign, x, y)


def cast(name, of, to):
    return [of], to, lambda b, x: getattr(b, name)(x, to)


def struct(b, x, y):
    both = b.insert_value(
        b.insert_value(ir.Constant(ir.LiteralStructType([I64, F64]), ir.Undefined), x, 0), y, 1
    )
    return b.fadd(b.extract_value(both, 1), b.sitofp(b.extract_value(both, 0), F64))


def lanes(b, x, at):
    y = b.insert_element(b.shuffle_vector(x, x, ir.Constant(I32X4, [3, 2, 1, 0])), F32(1.5), at)
    return b.fadd(b.extract_element(y, I32(0)), b.extract_element(x, at))


def memory(b, place, k):
    whole = b.gep(place, [k], inbounds=True)
    x = b.load(whole, align=4)
    b.store(b.fadd(x, F32(1.0)), b.gep(place, [I32(1)]), align=4)
    words = b.bitcast(place, I32.as_pointer())
    b.store(I32(7), words)
    return x


def atomics(b, place, x):
    b.store_atomic(x, place, "seq_cst", 8)
    b.fence("seq_cst")
    old = b.atomic_rmw("add", place, b.load_atomic(place, "seq_cst", 8), "seq_cst")
    pair = b.cmpxchg(place, old, x, "seq_cst", "seq_cst")
    return b.select(b.extract_value(pair, 1), b.extract_value(pair, 0), I64(0))


def stack(b, x, k):
    several = build.alloca_once(b, ir.ArrayType(I64, 3))
    b.store(x, b.gep(several, [I64(0), k]))
    some = build.space(b, 96, 64)
    b.store(x, b.bitcast(some, I64.as_pointer()))
    return b.add(b.ptrtoint(some, I64), b.load(b.gep(several, [I64(0), I64(1)])))


def branches(b, x, y):
    before = b.block
    with b.if_then(b.icmp_signed("<", x, y)):
        more, inside = b.mul(x, I64(3)), b.block
    (met,) = build.meeting(b, [(before, [x]), (inside, [more])])
    place = build.alloca_once(b, I64)
    with b.if_else(build.is_not_null(b, met)) as (then, otherwise):
        with then:
            b.store(met, place)
        with otherwise:
            b.store(y, place)
    return b.load(place)


def loop(b, n, step):
    total = build.alloca_once(b, I64)
    b.store(I64(0), total)
    with build.for_range(b, n, I64(2), step) as inner:
        with b.if_then(b.icmp_signed(">", inner.index, I64(100))):
            b.branch(inner.do_break)
        b.store(b.add(b.load(total), inner.index, flags=("nsw",)), total)
    return b.load(total)


def switched(b, x, y):
    end, other = b.append_basic_block("end"), b.append_basic_block("other")
    choice, found = b.switch(x, other), []
    for k in range(3):
        block = b.append_basic_block("case")
        choice.add_case(I64(k), block)
        b.position_at_end(block)
        found.append((block, [b.mul(y, I64(k + 5))]))
        b.branch(end)
    b.position_at_end(other)
    b.unreachable()
    b.position_at_end(end)
    return build.meeting(b, found)[0]


def calls(b, x, address):
    inner = build.function(b.module, ir.FunctionType(F64, [F64]), "inner")
    inner.linkage = "internal"
    inner.attributes.add("noinline")
    own = build.builder_at(inner.append_basic_block("entry"))
    own.ret(own.fmul(inner.args[0], F64(0.1)))
    root = b.module.declare_intrinsic("llvm.sqrt", [F64], ir.FunctionType(F64, [F64]))
    y = b.call(inner, [b.call(root, [x], fastmath=("nsz",))])
    b.call(b.inttoptr(address, ir.FunctionType(VOID, [F64, I64]).as_pointer()), [y, address], cconv="fastcc")
    move = [I8.as_pointer(), I8.as_pointer(), I64]
    copy = b.module.declare_intrinsic("llvm.memmove", move, ir.FunctionType(VOID, [*move, BIT]))
    bytes_at = b.inttoptr(address, I8.as_pointer())
    b.call(copy, [bytes_at, b.gep(bytes_at, [I64(8)]), I64(24), BIT(0)])
    return y


def notes(b, x, y):
    m = b.module
    value = b.load(x)
    scope = m.add_metadata(["here", m.add_metadata(["domain"])])
    value.set_metadata("alias.scope", m.add_metadata([scope]))
    stored = b.store(value, y, align=8)
    stored.set_metadata("noalias", m.add_metadata([scope]))
    stored.set_metadata("nontemporal", m.add_metadata([I32(1)]))
    return b.fadd(value, b.load(x))


P32, P64, PF64 = F32.as_pointer(), I64.as_pointer(), F64.as_pointer()
CASES = {
    **{f"{n} {t}": binary(n, t) for n in ("add", "sub", "mul", "and_", "or_", "xor", "shl", "lshr", "ashr") for t in (I64, I32X4)},
    **{f"{n} {t}": binary(n, t) for n in ("sdiv", "udiv", "srem", "urem") for t in (I8, I64)},
    **{f"{n} {t}": binary(n, t) for n in ("fadd", "fsub", "fmul", "fdiv", "frem") for t in (F32, F64)},
    "flags": binary("fadd", F32X4, flags=("contract", "reassoc")),
    "nsw": binary("add", I32, flags=("nsw",)),
    **{f"{n} {s}": compared(n, s, I64) for n in ("icmp_signed", "icmp_unsigned") for s in ("==", "!=", "<", "<=", ">", ">=")},
    **{f"{n} {s}": compared(n, s, F64) for n in ("fcmp_ordered", "fcmp_unordered") for s in ("==", "!=", "<", "<=", ">", ">=", "uno")},
    "compared lanes": compared("icmp_signed", "<", I64X4, vector=True),
    "zext": cast("zext", I8, I64), "sext": cast("sext", I8, I64), "trunc": cast("trunc", I64, I16), "same": cast("zext", I64, I64),
    "bitcast": cast("bitcast", F32, I32), "inttoptr": cast("inttoptr", I64, P64), "ptrtoint": cast("ptrtoint", PF64, I64),
    "fpext": cast("fpext", F32, F64), "fptrunc": cast("fptrunc", F64, F32), "half": cast("fptrunc", F32, HALF),
    "sitofp": cast("sitofp", I64, F64), "uitofp": cast("uitofp", I32, F32), "fptosi": cast("fptosi", F64, I64),
    "fptoui": cast("fptoui", F32, I32), "lanes' cast": cast("sitofp", I32X4, F32X4),
    "fneg": ([F64], F64, lambda b, x: b.fneg(x)), "not": ([I64], I64, lambda b, x: b.not_(x)),
    "not a bit": ([BIT], BIT, lambda b, x: b.not_(x)), "not lanes": ([I32X4], I32X4, lambda b, x: b.not_(x)),
    "select": ([BIT, F64], F64, lambda b, c, x: b.select(c, x, F64(-0.0))), "struct": ([I64, F64], F64, struct),
    "lanes": ([F32X4, I32], F32, lanes), "memory": ([P32, I64], F32, memory), "atomics": ([P64, I64], I64, atomics),
    "stack": ([I64, I64], I64, stack), "branches": ([I64, I64], I64, branches), "switch": ([I64, I64], I64, switched),
    "loop": ([I64], I64, lambda b, n: loop(b, n, 3)), "loop down": ([I64], I64, lambda b, n: loop(b, n, -1)),
    "loop by a value": ([I64, I64], I64, loop), "calls": ([F64, I64], F64, calls), "metadata": ([PF64, PF64], F64, notes),
}  # fmt: skip


def written(case, module, function, builder):
    kinds, result, emit = case
    made = function(module, ir.FunctionType(result, kinds), "f")
    b = builder(made.append_basic_block("entry"))
    b.ret(emit(b, *made.args))
    return str(module)


def code(text):
    return llvm.compile_module(text, loops=False)


@pytest.mark.parametrize("name", CASES)
def test_the_same_object_code(name):
    ours = written(CASES[name], Module(), Function, Builder)
    assert code(ours) == code(written(CASES[name], ir.Module("m"), ir.Function, ir.IRBuilder)), ours


def test_loops_say_how_many_vectors_they_take():
    def loads(vectors):
        module = Module()
        f = Function(module, ir.FunctionType(VOID, [PF64, I64]), "f")
        b = Builder(f.append_basic_block("entry"))
        for _ in range(2):
            with build.for_range(b, f.args[1]) as inner:
                place = b.gep(f.args[0], [inner.index])
                b.store(b.fmul(b.load(place), F64(3.0)), place)
            build.interleave(inner, vectors)
        b.ret_void()
        text = str(module)
        assert text.count("distinct !{") == 2  # a loop's own node is like no other's
        assert text.count(f'"llvm.loop.interleave.count", i32 {vectors}') == 1
        return str(llvm.optimised(text)).count("load <")

    assert loads(4) > loads(2) > loads(1) > 0


def test_a_function_counts_its_operations():
    module = Module()
    f = Function(module, ir.FunctionType(I64, [I64, I64]), "f")
    b = Builder(f.append_basic_block("entry"))
    b.ret(stack(b, *f.args))
    assert (
        f.operations()
        == len([line for line in str(f).splitlines() if line.startswith(("%", "store", "ret"))])
        == 11
    )
    assert b.block.is_terminated
