/* A module for test_modules.py: replies that are made outside of the command that asked for them. */
#include "valkeymodule.h"

#include <pthread.h>
#include <unistd.h>

/* t.later KEY VALUE: blocks, and writes from a thread. */
static void *later(void *arg) {
    void **args = arg;
    ValkeyModuleBlockedClient *bc = args[0];
    ValkeyModuleCtx *ctx = ValkeyModule_GetThreadSafeContext(bc);
    usleep(20000);
    ValkeyModule_ThreadSafeContextLock(ctx);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "SET", "!ss", args[1], args[2]);
    ValkeyModule_ReplyWithCallReply(ctx, reply);
    ValkeyModule_FreeCallReply(reply);
    ValkeyModule_FreeString(ctx, args[1]);
    ValkeyModule_FreeString(ctx, args[2]);
    ValkeyModule_ThreadSafeContextUnlock(ctx);
    ValkeyModule_UnblockClient(bc, NULL);
    ValkeyModule_FreeThreadSafeContext(ctx);
    ValkeyModule_Free(args);
    return NULL;
}

static int later_command(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    void **args = ValkeyModule_Alloc(3 * sizeof(*args));
    args[0] = ValkeyModule_BlockClient(ctx, NULL, NULL, NULL, 0);
    args[1] = ValkeyModule_HoldString(ctx, argv[1]);
    args[2] = ValkeyModule_HoldString(ctx, argv[2]);
    pthread_t thread;
    pthread_create(&thread, NULL, later, args);
    pthread_detach(thread);
    return VALKEYMODULE_OK;
}

/* t.take KEY: blocks until the list KEY has an element, and pops it. */
static int take_reply(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    (void)argc;
    ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, argv[1], VALKEYMODULE_READ | VALKEYMODULE_WRITE);
    if (ValkeyModule_KeyType(key) != VALKEYMODULE_KEYTYPE_LIST) {
        ValkeyModule_CloseKey(key);
        return VALKEYMODULE_ERR;
    }
    ValkeyModuleString *element = ValkeyModule_ListPop(key, VALKEYMODULE_LIST_HEAD);
    ValkeyModule_ReplyWithString(ctx, element);
    ValkeyModule_FreeString(ctx, element);
    ValkeyModule_CloseKey(key);
    ValkeyModule_Replicate(ctx, "LPOP", "s", argv[1]);
    return VALKEYMODULE_OK;
}

static int take_timeout(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    (void)argv;
    (void)argc;
    return ValkeyModule_ReplyWithNull(ctx);
}

static int take_command(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    if (take_reply(ctx, argv, argc) == VALKEYMODULE_OK) return VALKEYMODULE_OK;
    ValkeyModule_BlockClientOnKeys(ctx, take_reply, take_timeout, NULL, 0, &argv[1], 1, NULL);
    return VALKEYMODULE_OK;
}

/* t.call COMMAND ARG...: calls it as a module may. */
static int call_command(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    if (argc < 2) return ValkeyModule_WrongArity(ctx);
    const char *name = ValkeyModule_StringPtrLen(argv[1], NULL);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, name, "!Ev", argv + 2, (size_t)(argc - 2));
    if (!reply) return ValkeyModule_ReplyWithError(ctx, "ERR no reply");
    ValkeyModule_ReplyWithCallReply(ctx, reply);
    ValkeyModule_FreeCallReply(reply);
    return VALKEYMODULE_OK;
}

int ValkeyModule_OnLoad(ValkeyModuleCtx *ctx, ValkeyModuleString **argv, int argc) {
    (void)argv;
    (void)argc;
    if (ValkeyModule_Init(ctx, "t", 1, VALKEYMODULE_APIVER_1) == VALKEYMODULE_ERR ||
        ValkeyModule_CreateCommand(ctx, "t.later", later_command, "write", 1, 1, 1) == VALKEYMODULE_ERR ||
        ValkeyModule_CreateCommand(ctx, "t.take", take_command, "write", 1, 1, 1) == VALKEYMODULE_ERR ||
        ValkeyModule_CreateCommand(ctx, "t.call", call_command, "", 0, 0, 0) == VALKEYMODULE_ERR)
        return VALKEYMODULE_ERR;
    return VALKEYMODULE_OK;
}
