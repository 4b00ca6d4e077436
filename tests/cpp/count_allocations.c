// Preloaded by tests/test_steady_state.py: counts the allocations that come from the compiled module, from the C++
// library that it uses, and from OpenMP, while counting is on. glibc only.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static struct {
    uintptr_t begin, end;
} watched[16];
static int n_watched;
static atomic_int counting;
static atomic_long calls, bytes, largest;

static int watch(struct dl_phdr_info* object, size_t size, void* unused) {
    (void)size, (void)unused;
    const char* slash = strrchr(object->dlpi_name, '/');
    const char* name = slash ? slash + 1 : object->dlpi_name;
    if (strncmp(name, "_cpu.", 5) && strncmp(name, "libstdc++", 9) && strncmp(name, "libgomp", 7)) return 0;
    for (int i = 0; i < object->dlpi_phnum && n_watched < 16; ++i) {
        const ElfW(Phdr)* segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X)) continue;
        watched[n_watched].begin = object->dlpi_addr + segment->p_vaddr;
        watched[n_watched++].end = object->dlpi_addr + segment->p_vaddr + segment->p_memsz;
    }
    return 0;
}

static void note(const void* caller, size_t size) {
    if (!atomic_load(&counting)) return;
    for (int i = 0; i < n_watched; ++i) {
        if ((uintptr_t)caller < watched[i].begin || (uintptr_t)caller >= watched[i].end) continue;
        atomic_fetch_add(&calls, 1);
        atomic_fetch_add(&bytes, (long)size);
        for (long seen = atomic_load(&largest); (long)size > seen;)
            if (atomic_compare_exchange_weak(&largest, &seen, (long)size)) break;
        return;
    }
}

// Called from Python. Returns the number of stretches of code that are watched.
int counting_start(void) {
    n_watched = 0;
    dl_iterate_phdr(watch, NULL);
    calls = bytes = largest = 0;
    counting = 1;
    return n_watched;
}

void counting_stop(long result[3]) {
    counting = 0;
    result[0] = calls, result[1] = bytes, result[2] = largest;
}

void* malloc(size_t size) {
    note(__builtin_return_address(0), size);
    return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
    note(__builtin_return_address(0), count * size);
    return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) {
    note(__builtin_return_address(0), size);
    return __libc_realloc(old, size);
}

void* memalign(size_t alignment, size_t size) {
    note(__builtin_return_address(0), size);
    return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    note(__builtin_return_address(0), size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
    note(__builtin_return_address(0), size);
    *result = __libc_memalign(alignment, size);
    return *result ? 0 : ENOMEM;
}

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
    note(__builtin_return_address(0), size);
    return (void*)syscall(SYS_mmap, address, size, protection, flags, file, offset);
}
