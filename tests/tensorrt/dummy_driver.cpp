// Stands in for the CUDA driver (libcuda.so.1), so that the real cuda-bindings check every call without a GPU.
//
// There is one GPU, whose memory is the host's and whose stream does all at once. What is not here answers "not
// supported", and nothing is checked: the order of the calls is the business of the fake in Python.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>

extern "C" {
typedef int Result;
typedef uint64_t Address;
static int something;

static Result unsupported() { return 801; }

Result cuInit(unsigned) { return 0; }
Result cuDriverGetVersion(int *version) { return *version = 13000, 0; }
Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
Result cuDeviceGet(int *device, int) { return *device = 0, 0; }
Result cuDeviceGetName(char *name, int length, int) { return strncpy(name, "Dummy GPU", length), 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, 0; }
Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &something, 0; }
Result cuDevicePrimaryCtxRelease(int) { return 0; }
Result cuCtxPushCurrent(void *) { return 0; }
Result cuCtxPopCurrent(void **context) { return *context = &something, 0; }
Result cuMemGetInfo(size_t *free, size_t *total) { return *free = *total = 1 << 30, 0; }
Result cuMemAlloc(Address *address, size_t size) { return *address = (Address)calloc(size, 1), 0; }
Result cuMemFree(Address address) { return free((void *)address), 0; }
Result cuMemHostAlloc(void **address, size_t size, unsigned) { return *address = calloc(size, 1), 0; }
Result cuMemFreeHost(void *address) { return free(address), 0; }
Result cuMemcpyHtoDAsync(Address to, const void *from, size_t size, void *) { return memcpy((void *)to, from, size), 0; }
Result cuMemcpyDtoHAsync(void *to, Address from, size_t size, void *) { return memcpy(to, (void *)from, size), 0; }
Result cuStreamCreate(void **stream, unsigned) { return *stream = &something, 0; }
Result cuStreamDestroy(void *) { return 0; }
Result cuStreamSynchronize(void *) { return 0; }
Result cuStreamBeginCapture(void *, int) { return 0; }
Result cuStreamEndCapture(void *, void **graph) { return *graph = &something, 0; }
Result cuGraphInstantiateWithFlags(void **executable, void *, unsigned long long) { return *executable = &something, 0; }
Result cuGraphLaunch(void *, void *) { return 0; }
Result cuGraphExecDestroy(void *) { return 0; }
Result cuGraphDestroy(void *) { return 0; }
Result cuTensorMapEncodeTiled() { return unsupported(); } // ONNX Runtime's library for CUDA does not load without it

// cuda-bindings ask for each function by its plain name and the version of CUDA that they were made for.
static Result find(const char *name, void **function) {
    static void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(self, name);
    if (!*function) *function = (void *)unsupported;
    return 0;
}
Result cuGetProcAddress(const char *name, void **function, int, uint64_t) { return find(name, function); }
Result cuGetProcAddress_v2(const char *name, void **function, int, uint64_t, int *status) {
    if (status) *status = 0;
    return find(name, function);
}
}
