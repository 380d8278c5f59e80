// Stands in for TensorRT's libraries, so that its real Python bindings import and check every call without a GPU.
//
// Every call on every object answers with one object, whichever class the bindings take it for. What it is as a number
// follows from where it lies: as a bool it is true, as an integer 1048833, as memory that many bytes, as a C string
// "{} ", and every structure is full of zeros (a shape without dimensions). It proves calls, never results.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <typeinfo>

#include <sys/mman.h>

struct Dummy {
    virtual ~Dummy();
};
Dummy::~Dummy() {}

extern "C" {
static char *const object = reinterpret_cast<char *>(0x100101);
static void **const table = reinterpret_cast<void **>(0x207d7b);  // its bytes, in memory, are "{} "
static const int slots = 1024;

void *answer(void *self) {
    if (self != object) {
        // A structure is returned where the caller says, in place of the object.
        memset(self, 0, sizeof(int32_t));
        return self;
    }
    return object;
}

static void *create() {
    static bool made = false;
    if (made) return object;
    char *const base = reinterpret_cast<char *>(0x100000);
    void *map = mmap(base, 0x200000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (map != base) abort();
    table[-2] = nullptr;
    table[-1] = const_cast<std::type_info *>(&typeid(Dummy));
    for (int i = 0; i < slots; i++) table[i] = reinterpret_cast<void *>(answer);
    void **members = reinterpret_cast<void **>(object);
    for (int i = 0; i < 64; i++) members[i] = object;  // the implementation behind each class is itself
    members[0] = table;
    made = true;
    return object;
}

void *createInferBuilder_INTERNAL() { return create(); }
void *createInferRefitter_INTERNAL() { return create(); }
void *createInferRuntime_INTERNAL() { return create(); }
void *createNvOnnxParser_INTERNAL() { return create(); }
void *createNvOnnxParserRefitter_INTERNAL() { return create(); }
void *getBuilderPluginRegistry() { return create(); }
void *getPluginRegistry() { return create(); }
int getInferLibVersion() { return 0; }
int getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void *, const char *) { return true; }
// The parsers of UFF and Caffe that the bindings of 8.6 link to.
void *_ZN14nvcaffeparser117createCaffeParserEv() { return create(); }
void *_ZN11nvuffparser15createUffParserEv() { return create(); }
void _ZN14nvcaffeparser123shutdownProtobufLibraryEv() {}
void _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi() {}
}
