// go-redis.
package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
	. "memorycluster.io/tests/clients/telling"
)

var background = context.Background()

func connect() *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{Endpoint()}})
}

func receive(subscription *redis.PubSub, send func(n int)) {
	defer subscription.Close()
	_, err := subscription.Receive(background) // it is subscribed now
	Must(err)
	for n := range Rounds {
		send(n)
	}
	ctx, cancel := context.WithTimeout(background, Patience)
	defer cancel()
	for n := range Rounds {
		message, err := subscription.ReceiveMessage(ctx)
		Must(err)
		Equal(message.Payload, n)
	}
}

func main() {
	client := connect()
	defer client.Close()
	steps := []Step{
		{"strings", func(p string) {
			for n := range Keys {
				Must(client.Set(background, fmt.Sprintf("%s:s:%d", p, n), n, 0).Err())
			}
			for n := range Keys {
				found, err := client.Get(background, fmt.Sprintf("%s:s:%d", p, n)).Int()
				Must(err)
				Equal(found, n)
			}
		}},
		{"pipeline", func(p string) {
			said, err := client.Pipelined(background, func(pipe redis.Pipeliner) error {
				for n := range Keys {
					pipe.IncrBy(background, fmt.Sprintf("%s:p:%d", p, n), int64(n))
					pipe.Get(background, fmt.Sprintf("%s:p:%d", p, n))
				}
				return nil
			})
			Must(err)
			for n := range Keys {
				Equal(said[2*n].(*redis.IntCmd).Val(), n)
				Equal(said[2*n+1].(*redis.StringCmd).Val(), n)
			}
		}},
		{"transaction", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("{%s:%s}:t", p, tag)
				said, err := client.TxPipelined(background, func(pipe redis.Pipeliner) error {
					pipe.Set(background, key+":1", "x", 0)
					pipe.Incr(background, key+":2")
					pipe.Get(background, key+":1")
					return nil
				})
				Must(err)
				Equal(said[1].(*redis.IntCmd).Val(), 1)
				Equal(said[2].(*redis.StringCmd).Val(), "x")
			}
		}},
		{"script", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("{%s:%s}:l", p, tag)
				said, err := client.Eval(background, Script, []string{key}, "v").Text()
				Must(err)
				Equal(said, "v")
				Equal(client.Get(background, key).Val(), "v")
			}
		}},
		{"publish", func(p string) {
			channel := p + ":c"
			through, err := client.MasterForKey(background, channel) // not each through another node: order
			Must(err)
			receive(client.Subscribe(background, channel), func(n int) {
				Must(through.Publish(background, channel, n).Err())
			})
		}},
		{"sharded_publish", func(p string) {
			for _, tag := range Tags {
				channel := fmt.Sprintf("%s:%s", p, tag)
				receive(client.SSubscribe(background, channel), func(n int) {
					Must(client.SPublish(background, channel, n).Err())
				})
			}
		}},
		{"blocking_pop", func(p string) {
			in, out := p+":in", p+":out"
			go func() {
				other := connect()
				defer other.Close()
				for range Rounds {
					said, err := other.BLPop(background, Patience, in).Result()
					Must(err)
					Must(other.RPush(background, out, "re "+said[1]).Err())
				}
			}()
			for n := range Rounds {
				Must(client.RPush(background, in, n).Err())
				said, err := client.BLPop(background, Patience, out).Result()
				Must(err)
				Equal(said, []string{out, fmt.Sprintf("re %d", n)})
			}
		}},
		{"stream", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("%s:x:%s", p, tag)
				Must(client.XGroupCreateMkStream(background, key, "group", "0").Err())
				var ids []string
				for n := range Rounds {
					id, err := client.XAdd(background, &redis.XAddArgs{Stream: key, Values: []any{"n", n}}).Result()
					Must(err)
					ids = append(ids, id)
				}
				read, err := client.XReadGroup(background, &redis.XReadGroupArgs{
					Group: "group", Consumer: "me", Streams: []string{key, ">"},
				}).Result()
				Must(err)
				for n, message := range read[0].Messages {
					Equal(message.ID, ids[n])
					Equal(message.Values["n"], n)
				}
				Equal(client.XAck(background, key, "group", ids...).Val(), Rounds)
				Equal(client.XPending(background, key, "group").Val().Count, 0)
			}
		}},
		{"scan", func(p string) {
			found := make(chan string, 10*Keys)
			Must(client.ForEachMaster(background, func(ctx context.Context, node *redis.Client) error {
				keys := node.Scan(ctx, 0, p+":s:*", 50).Iterator()
				for keys.Next(ctx) {
					found <- keys.Val()
				}
				return keys.Err()
			}))
			close(found)
			all := map[string]bool{}
			for key := range found {
				all[key] = true
			}
			Equal(len(all), Keys)
		}},
	}
	Run(steps,
		func(key, value string) error { return client.Set(background, key, value, 0).Err() },
		func(key string) (string, error) { return client.Get(background, key).Result() })
}
