/* A libcuda.so.1 that does nothing: what the bindings call is written to stderr, a line each, with what a driver would read. Handles
   are numbers that count up. As a driver of CUDA 13.0 it refuses PTX 9.1 and later. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int Result;
typedef void *Handle;
typedef struct { Handle func; unsigned grid[3], block[3], shared; Handle *params, *extra; Handle kern, ctx; } Kernel;
typedef struct { int type, reserved[3]; uint64_t handle; int kind; unsigned size; Handle *bodies; Handle ctx; } Node;

enum { SUCCESS = 0, NOT_FOUND = 500, UNSUPPORTED_PTX_VERSION = 222 };
static uintptr_t last = 0x100;
static Handle fresh(void) { return (Handle)(++last); }
static Handle body[1];
#ifdef QUIET
#define SAY(...) ((void)0)
#else
#define SAY(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr))
#endif
#define FIRST(params) (*(uint64_t *)(params)[0])

Result cuInit(unsigned flags) { return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }

Result cuGetProcAddress_v2(const char *name, Handle *found, int version, uint64_t flags, int *status) {
    static const char *forms[] = {"_v3", "_v2", ""};
    Dl_info self;
    char full[256];
    dladdr((void *)cuInit, &self);
    Handle library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    for (int i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%s%s", name, forms[i]);
        if ((*found = dlsym(library, full))) { if (status) *status = 0; return SUCCESS; }
    }
    if (status) *status = 1;
    return NOT_FOUND;
}
Result cuGetProcAddress(const char *name, Handle *found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
Result cuGetErrorName(int error, const char **text) {
    *text = error == UNSUPPORTED_PTX_VERSION ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : "CUDA_ERROR"; return SUCCESS;
}
Result cuGetErrorString(int error, const char **text) { *text = "meaning"; return SUCCESS; }

Result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 97 ? 232448 : -1; return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(Handle *ctx, int device) { *ctx = (Handle)0xc0; return SUCCESS; }
Result cuCtxSetCurrent(Handle ctx) { SAY("current %p", ctx); return SUCCESS; }

Result cuCtxPushCurrent_v2(Handle ctx) { SAY("push %p", ctx); return SUCCESS; }
Result cuCtxPopCurrent_v2(Handle *ctx) { SAY("pop"); return SUCCESS; }

Result cuModuleLoadData(Handle *module, const char *text) {
    if (strstr(text, ".version 9.")) { SAY("load refused"); return UNSUPPORTED_PTX_VERSION; }
    SAY("load %.12s", strstr(text, ".version")); *module = fresh(); return SUCCESS;
}
Result cuModuleLoadDataEx(Handle *module, const char *text, unsigned n, const int *options, Handle *values) {
    for (unsigned i = 0; i < n; i++) if (options[i] == 5) strcpy(values[i], "a complaint");
    return UNSUPPORTED_PTX_VERSION;
}
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { *function = fresh(); return SUCCESS; }
Result cuFuncGetAttribute(int *value, int attribute, Handle f) { *value = attribute == 1 ? 128 : -1; return SUCCESS; }
Result cuFuncSetAttribute(Handle f, int attribute, int value) { SAY("attribute %d=%d", attribute, value); return SUCCESS; }

Result cuLaunchKernel(Handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Handle stream,
                      Handle *params, Handle *extra) {
    SAY("launch grid %u %u %u block %u %u %u shared %u stream %lx first %lx extra %p", gx, gy, gz, bx, by, bz, shared, (long)stream,
        FIRST(params), (void *)extra);
    return SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, Handle stream) { SAY("copy %zu stream %lx", n, (long)stream); return SUCCESS; }
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, Handle stream) { SAY("set %u %zu", value, n); return SUCCESS; }
Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, Handle stream) {
    memset(to, 7, n); if ((long)stream != 9) SAY("to host %zu stream %lx", n, (long)stream); return SUCCESS;
}

Result cuStreamCreate(Handle *stream, unsigned flags) { *stream = (Handle)0x51de; SAY("stream flags %u", flags); return SUCCESS; }
Result cuStreamDestroy_v2(Handle stream) { SAY("stream destroyed"); return SUCCESS; }
Result cuStreamSynchronize(Handle stream) { SAY("synchronize %lx", (long)stream); return SUCCESS; }
Result cuStreamBeginCapture_v2(Handle stream, int mode) { SAY("capture mode %d", mode); return SUCCESS; }
Result cuStreamEndCapture(Handle stream, Handle *graph) { *graph = fresh(); return SUCCESS; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { SAY("wait stream %lx", (long)stream); return SUCCESS; }
Result cuEventCreate(Handle *event, unsigned flags) { *event = fresh(); return SUCCESS; }
Result cuEventSynchronize(Handle event) { SAY("event waited for"); return SUCCESS; }
Result cuEventQuery(Handle event) { static int asked; SAY("query"); return asked++ ? SUCCESS : 600; }
Result cuEventRecord(Handle event, Handle stream) { SAY("record stream %lx", (long)stream); return SUCCESS; }

Result cuGraphCreate(Handle *graph, unsigned flags) { *graph = (Handle)0x96a; return SUCCESS; }
Result cuGraphAddKernelNode_v2(Handle *node, Handle graph, const Handle *after, size_t n, const Kernel *k) {
    *node = fresh();
    SAY("kernel in %lx after %zu grid %u %u %u block %u %u %u shared %u first %lx kern %p ctx %p extra %p", (long)graph, n, k->grid[0],
        k->grid[1], k->grid[2], k->block[0], k->block[1], k->block[2], k->shared, FIRST(k->params), k->kern, k->ctx, (void *)k->extra);
    return SUCCESS;
}
Result cuGraphAddChildGraphNode(Handle *node, Handle graph, const Handle *after, size_t n, Handle child) {
    *node = fresh(); SAY("child in %lx after %zu", (long)graph, n); return SUCCESS;
}
Result cuGraphConditionalHandleCreate(uint64_t *handle, Handle graph, Handle ctx, unsigned value, unsigned flags) {
    *handle = 0xabc; SAY("handle in %lx ctx %p value %u flags %u", (long)graph, ctx, value, flags); return SUCCESS;
}
Result cuGraphAddNode_v2(Handle *node, Handle graph, const Handle *after, const void *edges, size_t n, Node *p) {
    *node = fresh(); body[0] = (Handle)(0xb0d0 + last); p->bodies = body;
    SAY("decides in %lx after %zu edges %p type %d handle %lx kind %d size %u ctx %p body %lx", (long)graph, n, edges, p->type, p->handle,
        p->kind, p->size, p->ctx, (long)body[0]);
    return SUCCESS;
}
Result cuGraphInstantiateWithFlags(Handle *exec, Handle graph, uint64_t flags) { *exec = (Handle)0xe8ec; SAY("instantiate %lx", (long)graph); return SUCCESS; }
Result cuGraphLaunch(Handle exec, Handle stream) { SAY("replay %lx stream %lx", (long)exec, (long)stream); return SUCCESS; }
Result cuGraphExecKernelNodeSetParams_v2(Handle exec, Handle node, const Kernel *k) { SAY("update %lx first %lx", (long)exec, FIRST(k->params)); return SUCCESS; }
Result cuGraphExecDestroy(Handle exec) { SAY("exec destroyed"); return SUCCESS; }
Result cuGraphDestroy(Handle graph) { SAY("graph destroyed %lx", (long)graph); return SUCCESS; }
