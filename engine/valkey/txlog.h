/* txlog.h - what the rest of the server needs to know of txlog.c.
 * Included at the end of server.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef TXLOG_H
#define TXLOG_H

/* Replies of one client that wait for their offset to commit. Made at the first held reply. */
typedef struct txlogHold {
    list *blocks;    /* Reply blocks, oldest first; their hold_off never decreases along the list. */
    listNode *mark;  /* Last block that must keep its offset when the open bracket ends. */
    long long floor; /* Offset that what comes next waits for at least. */
    uint64_t loop;   /* Event loop iteration in which the last block was begun. */
    int heap;        /* Position in the heap of waiting clients, or -1. */
    bool open;       /* Between holdBegin() and holdEnd(): nothing is released. */
    bool pushed;     /* Got a message from the running unit, whose end is not known yet. */
} txlogHold;

struct txlogState {
    /* Configuration. */
    int enabled;
    int autoack; /* For tests: everything commits at once, and nobody is refused anything. */
    int autoack_delay; /* Milliseconds; for tests. */
    int allow_monitor;
    int follow_port;
    char *agent_user;
    long long uncommitted_limit;
    long long hold_timeout; /* Milliseconds. */
    /* State. */
    int logged;          /* enabled && !autoack: there is an agent, and it is the authority. */
    int promoting;       /* TXLOG PROMOTE is running: the one way to become the leader. */
    int paused;          /* No lease, above the limit or full: expiry and eviction would only add bytes. */
    client *late;        /* Running client that met an expired key: its reply is held from there on. */
    long long committed; /* Replication offset up to which the log is durable. */
};
extern struct txlogState txlog;

#define txlogLeads() (txlog.enabled && server.primary_host == NULL)

/* Lifecycle. */
void txlogInit(void);
void txlogBoot(void);
void txlogBeforeSleep(void);
void txlogRoleChange(int primary);
int txlogAllowSetPrimary(bool disconnect_blocked);
int txlogAllowUnsetPrimary(void);
sds txlogInfo(sds info);
void txlogCommand(client *c);

/* Around the execution of commands. */
int txlogReject(client *c, int is_write);
robj *txlogDenyWrite(void);
int txlogBeforeCallSlow(client *c);
void txlogAfterCall(client *c, long long old_off);
int txlogBeginAsync(client *c);
void txlogEndAsync(client *c);
void txlogMarkDirty(serverOpArray *oa);
void txlogUnitEnd(void);
void txlogLateHold(void);

/* Messages to others than the running client. */
void txlogPush(client *c, int end);
int txlogHoldPublish(robj *channel, robj *message, int sharded);

/* Connections. */
void txlogFreeClient(client *c);
int txlogKeepClosing(client *c);

/* Cluster view and backlog. */
int txlogKeepsSlots(void);
int txlogKeepsBacklog(long long end);

list *clientGetReplyList(client *c);

/* call() prologue: 1 if the replies of this command are being held. */
static inline int txlogBeforeCall(client *c) {
    return txlogLeads() ? txlogBeforeCallSlow(c) : 0;
}

#endif
