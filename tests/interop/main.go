// SPDX-License-Identifier: Apache-2.0

// The side of the ttrpc that containerd speaks: `call SOCKET` tries ttrpc_peer's server, `serve SOCKET` is what
// ttrpc_peer calls. A line for each thing that was tried; exit status 1 when one failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	service   = "interop.Test"
	messages  = 200
	inFlight  = 1000
	nearLimit = 4<<20 - 512
)

var both = &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
var fromServer = &ttrpc.StreamDesc{StreamingServer: true}

func text(value string) *wrapperspb.StringValue { return wrapperspb.String(value) }

func call(ctx context.Context, client *ttrpc.Client, method, request string) (string, error) {
	answer := text("")
	err := client.Call(ctx, service, method, text(request), answer)
	return answer.GetValue(), err
}

func echo(ctx context.Context, client *ttrpc.Client) error {
	for _, request := range []string{"", "hello", strings.Repeat("x", nearLimit)} {
		answer, err := call(ctx, client, "Echo", request)
		if err != nil || answer != request {
			return fmt.Errorf("%d bytes became %d: %v", len(request), len(answer), err)
		}
	}
	return nil
}

func statuses(ctx context.Context, client *ttrpc.Client) error {
	for code := codes.Canceled; code <= codes.DataLoss; code++ {
		_, err := call(ctx, client, "Fail", strconv.Itoa(int(code)))
		if got, _ := status.FromError(err); got.Code() != code || got.Message() != "because ä" {
			return fmt.Errorf("%v arrived as %v", code, err)
		}
	}
	return nil
}

func unimplemented(ctx context.Context, client *ttrpc.Client) error {
	_, err := call(ctx, client, "Nothing", "")
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("a method that is none: %v", err)
	}
	err = client.Call(ctx, "other.Service", "Echo", text(""), text(""))
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("a service that is none: %v", err)
	}
	return nil
}

func metadata(ctx context.Context, client *ttrpc.Client) error {
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"key": {"one", "two"}})
	if answer, err := call(ctx, client, "Metadata", "key"); err != nil || answer != "one two" {
		return fmt.Errorf("%q, %v", answer, err)
	}
	return nil
}

func tooLong(ctx context.Context, client *ttrpc.Client) error {
	if _, err := call(ctx, client, "Big", ""); status.Code(err) != codes.ResourceExhausted {
		return fmt.Errorf("a response: %v", err)
	}
	return echo(ctx, client)
}

// Until nobody waits for an answer any more at the server.
func nobodyWaits(ctx context.Context, client *ttrpc.Client) error {
	var answer string
	for range 100 {
		var err error
		if answer, err = call(ctx, client, "Waiting", ""); err != nil {
			return err
		}
		if answer == "0" {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s still wait", answer)
}

func deadlines(ctx context.Context, client *ttrpc.Client) error {
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := call(short, client, "Never", "")
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("%v", err)
	}
	over, cancelOver := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancelOver()
	if _, err := call(over, client, "Never", ""); err == nil {
		return errors.New("a deadline that was over did not count")
	}
	return nobodyWaits(ctx, client)
}

func goodbye(ctx context.Context, client *ttrpc.Client) error {
	connection, err := net.Dial("unix", os.Args[2])
	if err != nil {
		return err
	}
	other := ttrpc.NewClient(connection)
	ended := make(chan error, 1)
	go func() {
		_, err := call(ctx, other, "Never", "")
		ended <- err
	}()
	for answer := ""; answer != "1"; {
		if answer, err = call(ctx, client, "Waiting", ""); err != nil {
			return err
		}
	}
	other.Close()
	if err := <-ended; err == nil {
		return errors.New("a call outlived its connection")
	}
	return nobodyWaits(ctx, client)
}

func manyCalls(ctx context.Context, client *ttrpc.Client) error {
	var group sync.WaitGroup
	failures := make(chan error, inFlight)
	for i := range inFlight {
		group.Go(func() {
			request := strconv.Itoa(i)
			if answer, err := call(ctx, client, "Late", request); err != nil || answer != request {
				failures <- fmt.Errorf("call %d: %q, %v", i, answer, err)
			}
		})
	}
	group.Wait()
	close(failures)
	return <-failures
}

func streamBothWays(ctx context.Context, client *ttrpc.Client) error {
	stream, err := client.NewStream(ctx, both, service, "EchoStream", nil)
	if err != nil {
		return err
	}
	for i := range messages {
		if err := stream.SendMsg(text(strconv.Itoa(i))); err != nil {
			return err
		}
		answer := text("")
		if err := stream.RecvMsg(answer); err != nil || answer.GetValue() != strconv.Itoa(i) {
			return fmt.Errorf("message %d: %q, %v", i, answer.GetValue(), err)
		}
	}
	if err := stream.SendMsg(text("")); err != nil {
		return err
	}
	if err := stream.RecvMsg(text("")); err != nil {
		return fmt.Errorf("an empty message: %v", err)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(text("")); err != io.EOF {
		return fmt.Errorf("instead of its end: %v", err)
	}
	return nil
}

func streamFromServer(ctx context.Context, client *ttrpc.Client) error {
	stream, err := client.NewStream(ctx, fromServer, service, "Count", text(strconv.Itoa(messages)))
	if err != nil {
		return err
	}
	for i := range messages {
		answer := text("")
		if err := stream.RecvMsg(answer); err != nil || answer.GetValue() != strconv.Itoa(i) {
			return fmt.Errorf("message %d: %q, %v", i, answer.GetValue(), err)
		}
	}
	if err := stream.RecvMsg(text("")); err != io.EOF {
		return fmt.Errorf("instead of its end: %v", err)
	}
	return nil
}

func streamThatFails(ctx context.Context, client *ttrpc.Client) error {
	stream, err := client.NewStream(ctx, both, service, "FailStream", nil)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(text("x")); err != nil {
		return err
	}
	if err := stream.RecvMsg(text("")); status.Code(err) != codes.DataLoss {
		return fmt.Errorf("%v", err)
	}
	return echo(ctx, client)
}

func callAll() bool {
	connection, err := net.Dial("unix", os.Args[2])
	if err != nil {
		fmt.Println(err)
		return false
	}
	client := ttrpc.NewClient(connection)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	passed := true
	for _, try := range []struct {
		name string
		run  func(context.Context, *ttrpc.Client) error
	}{
		{"echo", echo}, {"statuses", statuses}, {"unimplemented", unimplemented}, {"metadata", metadata},
		{"too long", tooLong}, {"deadlines", deadlines}, {"goodbye", goodbye}, {"many calls", manyCalls},
		{"stream both ways", streamBothWays}, {"stream from the server", streamFromServer},
		{"stream that fails", streamThatFails},
	} {
		if err := try.run(ctx, client); err != nil {
			fmt.Printf("FAILED %s: %v\n", try.name, err)
			passed = false
		} else {
			fmt.Printf("ok %s\n", try.name)
		}
	}
	return passed
}

// The server's side.

func unary(answer func(context.Context, string) (string, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := text("")
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		answer, err := answer(ctx, request.GetValue())
		if err != nil {
			return nil, err
		}
		return text(answer), nil
	}
}

func fail(_ context.Context, request string) (string, error) {
	code, _ := strconv.Atoi(request)
	return "", status.Error(codes.Code(code), "because ä")
}

func metadataOf(ctx context.Context, key string) (string, error) {
	all, _ := ttrpc.GetMetadata(ctx)
	values, _ := all.Get(key)
	return strings.Join(values, " "), nil
}

func echoStream(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		message := text("")
		if err := stream.RecvMsg(message); err == io.EOF {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(message); err != nil {
			return nil, err
		}
	}
}

func count(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	request := text("")
	if err := stream.RecvMsg(request); err != nil {
		return nil, err
	}
	end, _ := strconv.Atoi(request.GetValue())
	for i := range end {
		if err := stream.SendMsg(text(strconv.Itoa(i))); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func failStream(context.Context, ttrpc.StreamServer) (any, error) {
	return nil, status.Error(codes.DataLoss, "lost")
}

func serve() error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo":     unary(func(_ context.Context, request string) (string, error) { return request, nil }),
			"Fail":     unary(fail),
			"Metadata": unary(metadataOf),
			"Never": unary(func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}),
			"Late": unary(func(_ context.Context, request string) (string, error) {
				time.Sleep(50 * time.Millisecond)
				return request, nil
			}),
		},
		Streams: map[string]ttrpc.Stream{
			"EchoStream": {Handler: echoStream, StreamingClient: true, StreamingServer: true},
			"Count":      {Handler: count, StreamingServer: true},
			"FailStream": {Handler: failStream, StreamingClient: true, StreamingServer: true},
		},
	})
	listener, err := net.Listen("unix", os.Args[2])
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), listener)
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		fmt.Println(serve())
	} else if len(os.Args) == 3 && os.Args[1] == "call" && callAll() {
		return
	}
	os.Exit(1)
}
