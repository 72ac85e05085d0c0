// minio-setup brings a MinIO server to the state that a document describes, and heals a distributed one. It runs in the
// server's own container, so no client for MinIO is needed anywhere else and the root password stays where it is.
//
//	minio-setup apply [--check] < document.json    prints {"changed": true, "changes": ["bucket warehouse made"]}
//	minio-setup heal                               prints {"objects": 8, "healed": 2, "removed": 1, "failed": []}
//	minio-setup health                             exit status 0 when the server is up
//
// The document:
//
//	{"buckets": ["b"], "policies": {"p": {...}},
//	 "users": [{"name": "u", "access_key": "...", "secret": "...", "policies": ["p"]}]}
//
// The server knows a user by its access key, which is a secret, too: name is what messages call it. A user's secret is replaced
// when the server refuses it; its policies become exactly those listed. Users and policies that the document does not name are
// removed, and so is every key that was derived from a user's or from root's (service accounts). Buckets and objects are not.
//
// heal gives every host of a distributed store its part of every object: after a host was away, or came back empty. It
// counts the objects, those that lacked a part, those whose last leftovers it removed because they were deleted in the
// meantime, and names what still lacks a part. It says on standard error how far it is; exit status 1 if anything failed.
//
// MINIO_SETUP_URL (http://127.0.0.1:9000), MINIO_ROOT_USER or _FILE, MINIO_ROOT_PASSWORD or _FILE.
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/minio/madmin-go/v3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

type user struct {
	Name      string   `json:"name"`
	AccessKey string   `json:"access_key"`
	Secret    string   `json:"secret"`
	Policies  []string `json:"policies"`
}

type document struct {
	Buckets  []string                   `json:"buckets"`
	Policies map[string]json.RawMessage `json:"policies"`
	Users    []user                     `json:"users"`
}

type result struct {
	Changed bool     `json:"changed"`
	Changes []string `json:"changes"`
}

type setup struct {
	server    *url.URL
	transport *http.Transport
	admin     *madmin.AdminClient
	root      *minio.Client
	check     bool
	changes   []string
}

// healing is what a heal found and did.
type healing struct {
	Objects int64    `json:"objects"`
	Healed  int64    `json:"healed"`
	Removed int64    `json:"removed"`
	Failed  []string `json:"failed"` // the first few
	failed  int64
}

const (
	patience = 60 * time.Second
	// The server waits when it has a thousand results that nobody has fetched.
	fetchEvery  = 250 * time.Millisecond
	reportEvery = 5 * time.Second
	namedFailed = 100
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "minio-setup:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	server, err := url.Parse(environment("MINIO_SETUP_URL", "http://127.0.0.1:9000"))
	if err != nil {
		return fmt.Errorf("MINIO_SETUP_URL: %w", err)
	}
	// The certificate names the service, not the loopback address.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	switch strings.Join(args, " ") {
	case "health":
		return health(server, transport)
	case "apply", "apply --check":
		return apply(server, transport, len(args) == 2)
	case "heal":
		return heal(server, transport)
	}
	return errors.New("usage: minio-setup apply [--check] < document.json | minio-setup heal | minio-setup health")
}

func health(server *url.URL, transport *http.Transport) error {
	client := http.Client{Transport: transport, Timeout: 3 * time.Second}
	response, err := client.Get(server.JoinPath("/minio/health/live").String())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", response.Status)
	}
	return nil
}

// connect logs in with the root key, when the server is ready for that.
func connect(ctx context.Context, server *url.URL, transport *http.Transport) (*setup, error) {
	name, err := secret("MINIO_ROOT_USER")
	if err != nil {
		return nil, err
	}
	password, err := secret("MINIO_ROOT_PASSWORD")
	if err != nil {
		return nil, err
	}
	s := &setup{server: server, transport: transport, changes: []string{}}
	if s.root, err = s.client(name, password); err != nil {
		return nil, err
	}
	if s.admin, err = madmin.NewWithOptions(server.Host, &madmin.Options{
		Creds: credentials.NewStaticV4(name, password, ""), Secure: server.Scheme == "https",
	}); err != nil {
		return nil, err
	}
	s.admin.SetCustomTransport(transport)
	return s, s.wait(ctx)
}

func apply(server *url.URL, transport *http.Transport, check bool) error {
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	var want document
	if err := decoder.Decode(&want); err != nil {
		return fmt.Errorf("the document on standard input cannot be read: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := connect(ctx, server, transport)
	if err != nil {
		return err
	}
	s.check = check
	for _, bucket := range want.Buckets {
		if err := s.bucket(ctx, bucket); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket, err)
		}
	}
	names := make([]string, 0, len(want.Policies))
	for policy := range want.Policies {
		names = append(names, policy)
	}
	sort.Strings(names)
	for _, policy := range names {
		if err := s.policy(ctx, policy, want.Policies[policy]); err != nil {
			return fmt.Errorf("policy %s: %w", policy, err)
		}
	}
	for _, u := range want.Users {
		if err := s.user(ctx, u); err != nil {
			return fmt.Errorf("user %s: %w", u.Name, err)
		}
	}
	if err := s.remove(ctx, want); err != nil {
		return fmt.Errorf("what the document does not name: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(result{Changed: len(s.changes) > 0, Changes: s.changes})
}

// heal may take hours: nothing but the wait for the hosts has a limit.
func heal(server *url.URL, transport *http.Transport) error {
	ctx := context.Background()
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := connect(soon, server, transport)
	if err != nil {
		return err
	}
	if err := s.gather(ctx, soon); err != nil {
		return err
	}
	total := healing{}
	for {
		pass, err := s.pass(ctx)
		if err != nil {
			return err
		}
		pass.Healed += total.Healed
		pass.Removed = max(pass.Removed, total.Removed) // one may need two passes
		total = pass
		if total.failed == 0 || soon.Err() != nil {
			break
		}
		say("%d things still lack a part: perhaps not every host knows yet that one is back, so once more", total.failed)
		time.Sleep(reportEvery)
	}
	if err := json.NewEncoder(os.Stdout).Encode(total); err != nil {
		return err
	}
	if total.failed > 0 {
		return fmt.Errorf("%d things could not be healed, the first is %s. When every host is up, run it again", total.failed, total.Failed[0])
	}
	return nil
}

// gather waits until all hosts and drives are there, or soon is over: what can be healed without them is healed.
func (s *setup) gather(ctx, soon context.Context) error {
	for {
		info, err := s.admin.ServerInfo(ctx)
		if err != nil {
			return err
		}
		if len(info.Servers) < 2 {
			return errors.New("this store is on one host, which has nothing to heal from: only a distributed store has")
		}
		away := []string{}
		for _, host := range info.Servers {
			if host.State != string(madmin.ItemOnline) {
				away = append(away, host.Endpoint)
				continue
			}
			for _, drive := range host.Disks {
				if drive.State != madmin.DriveStateOk {
					away = append(away, drive.Endpoint)
				}
			}
		}
		switch {
		case len(away) == 0:
			return nil
		case soon.Err() != nil:
			say("going on without %s", strings.Join(away, ", "))
			return nil
		}
		say("waiting for %s", strings.Join(away, ", "))
		time.Sleep(2 * time.Second)
	}
}

// pass heals everything once. One that somebody else has begun by this host is begun anew, so that the counts are complete.
func (s *setup) pass(ctx context.Context) (healing, error) {
	found := healing{Failed: []string{}}
	options := madmin.HealOpts{Recursive: true, ScanMode: madmin.HealNormalScan}
	begun, _, err := s.admin.Heal(ctx, "", "", options, "", true, false)
	if err != nil {
		return found, err
	}
	reported := time.Now()
	for {
		_, status, err := s.admin.Heal(ctx, "", "", options, begun.ClientToken, false, false)
		if err != nil {
			return found, err
		}
		for i := range status.Items {
			found.add(&status.Items[i])
		}
		switch status.Summary {
		case "finished":
			return found, nil
		case "stopped":
			return found, fmt.Errorf("the server stopped healing: %s", status.FailureDetail)
		}
		if time.Since(reported) > reportEvery {
			say("%d objects looked at, %d healed, %d failed", found.Objects, found.Healed, found.failed)
			reported = time.Now()
		}
		time.Sleep(fetchEvery)
	}
}

// add counts one result. MinIO's own records (buckets, users, policies) are healed with the objects and only count if they fail.
func (h *healing) add(item *madmin.HealResultItem) {
	object := item.Type == madmin.HealItemObject
	if strings.HasPrefix(item.Detail, "Object not found: ") || strings.HasPrefix(item.Detail, "Version not found: ") {
		if object {
			h.Removed++
		}
		return
	}
	before, after := item.GetOnlineCounts()
	if object {
		h.Objects++
		if after > before {
			h.Healed++
		}
	}
	reasons := []string{}
	if item.Detail != "" {
		reasons = append(reasons, item.Detail)
	}
	for _, drive := range item.After.Drives {
		if drive.State != madmin.DriveStateOk {
			reasons = append(reasons, drive.Endpoint+" "+drive.State)
		}
	}
	if len(reasons) == 0 {
		return
	}
	h.failed++
	if len(h.Failed) < namedFailed {
		h.Failed = append(h.Failed, fmt.Sprintf("%s/%s (%s)", item.Bucket, item.Object, strings.Join(reasons, ", ")))
	}
}

func say(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "minio-setup: "+format+"\n", values...)
}

// wait returns when the server has initialised its users; a wrong root password is reported at once.
func (s *setup) wait(ctx context.Context) error {
	for {
		_, err := s.admin.ListCannedPolicies(ctx)
		if err == nil {
			return nil
		}
		switch madmin.ToErrorResponse(err).Code {
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "XMinioAdminInvalidAccessKey":
			return fmt.Errorf("the server refuses the root credentials: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", s.server, err)
		case <-time.After(time.Second):
		}
	}
}

func (s *setup) client(name, password string) (*minio.Client, error) {
	return minio.New(s.server.Host, &minio.Options{
		Creds: credentials.NewStaticV4(name, password, ""), Secure: s.server.Scheme == "https", Transport: s.transport,
	})
}

// change does something unless only a check was asked for, and notes it.
func (s *setup) change(note string, do func() error) error {
	if !s.check {
		if err := do(); err != nil {
			return err
		}
	}
	s.changes = append(s.changes, note)
	return nil
}

func (s *setup) bucket(ctx context.Context, name string) error {
	exists, err := s.root.BucketExists(ctx, name)
	if err != nil || exists {
		return err
	}
	return s.change("bucket "+name+" made", func() error {
		return s.root.MakeBucket(ctx, name, minio.MakeBucketOptions{})
	})
}

func (s *setup) policy(ctx context.Context, name string, want json.RawMessage) error {
	have, err := s.admin.InfoCannedPolicyV2(ctx, name)
	if err != nil && madmin.ToErrorResponse(err).Code != "XMinioAdminNoSuchPolicy" {
		return err
	}
	if err == nil && same(have.Policy, want) {
		return nil
	}
	return s.change("policy "+name+" set", func() error { return s.admin.AddCannedPolicy(ctx, name, want) })
}

func (s *setup) user(ctx context.Context, want user) error {
	have, err := s.admin.GetUserInfo(ctx, want.AccessKey)
	if err != nil && madmin.ToErrorResponse(err).Code != "XMinioAdminNoSuchUser" {
		return err
	}
	known := err == nil
	if !known || have.Status != madmin.AccountEnabled || !s.authenticates(ctx, want) {
		note := "user " + want.Name + " made"
		if known {
			note = "user " + want.Name + " got a new secret"
		}
		err := s.change(note, func() error { return s.admin.AddUser(ctx, want.AccessKey, want.Secret) })
		if err != nil {
			return err
		}
	}
	attached := []string{}
	if have.PolicyName != "" {
		attached = strings.Split(have.PolicyName, ",")
	}
	slices.Sort(attached)
	wanted := slices.Sorted(slices.Values(want.Policies))
	if slices.Equal(attached, wanted) {
		return nil
	}
	// Of all ways to say so, this one needs no encrypted answer (see the build for what that would cost).
	return s.change("user "+want.Name+" got its policies", func() error {
		return s.admin.SetPolicy(ctx, strings.Join(wanted, ","), want.AccessKey, false)
	})
}

// builtIn are the policies that every MinIO has; nobody is given one.
var builtIn = []string{"consoleAdmin", "diagnostics", "readonly", "readwrite", "writeonly"}

// remove takes away what the document does not name: users first, for a policy that one of them has cannot go.
func (s *setup) remove(ctx context.Context, want document) error {
	users, err := s.exported(ctx, "users.json")
	if err != nil {
		return err
	}
	for _, key := range users {
		if slices.ContainsFunc(want.Users, func(u user) bool { return u.AccessKey == key }) {
			continue
		}
		err := s.change("user "+key+" removed", func() error { return s.admin.RemoveUser(ctx, key) })
		if err != nil {
			return err
		}
	}
	// Those of removed users went with them.
	accounts, err := s.exported(ctx, "svcaccts.json")
	if err != nil {
		return err
	}
	for _, key := range accounts {
		err := s.change("service account "+key+" removed", func() error { return s.admin.DeleteServiceAccount(ctx, key) })
		if err != nil {
			return err
		}
	}
	policies, err := s.admin.ListCannedPolicies(ctx)
	if err != nil {
		return err
	}
	for _, policy := range slices.Sorted(maps.Keys(policies)) {
		if _, named := want.Policies[policy]; named || slices.Contains(builtIn, policy) {
			continue
		}
		err := s.change("policy "+policy+" removed", func() error { return s.admin.RemoveCannedPolicy(ctx, policy) })
		if err != nil {
			return err
		}
	}
	return nil
}

// exported returns the sorted names in a file of what the server knows about identities. Of all ways to list users this one
// needs no encrypted answer (see the build for what that would cost); it comes by the loopback address.
func (s *setup) exported(ctx context.Context, name string) ([]string, error) {
	stream, err := s.admin.ExportIAM(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	if err != nil {
		return nil, err
	}
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return nil, err
	}
	file, err := archive.Open("iam-assets/" + name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	entries := map[string]json.RawMessage{}
	if err := json.NewDecoder(file).Decode(&entries); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return slices.Sorted(maps.Keys(entries)), nil
}

// authenticates tells whether the server knows the user by this secret; what the user may do does not matter.
func (s *setup) authenticates(ctx context.Context, u user) bool {
	client, err := s.client(u.AccessKey, u.Secret)
	if err != nil {
		return false
	}
	_, err = client.ListBuckets(ctx)
	return err == nil || minio.ToErrorResponse(err).Code == "AccessDenied"
}

// same compares two policies as documents: MinIO stores them in a form of its own, lists sorted differently.
func same(a, b []byte) bool {
	var first, second any
	if json.Unmarshal(a, &first) != nil || json.Unmarshal(b, &second) != nil {
		return false
	}
	one, _ := json.Marshal(canonical(first))
	two, _ := json.Marshal(canonical(second))
	return bytes.Equal(one, two)
}

// canonical sorts the lists and makes a list of one of each single string: "s3:*" and ["s3:*"] mean the same.
func canonical(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, item := range v {
			if text, ok := item.(string); ok && (key == "Action" || key == "Resource") {
				item = []any{text}
			}
			v[key] = canonical(item)
		}
		// An empty identifier is as good as none, and every statement of a user's policy is about that user.
		for _, key := range []string{"Sid", "ID", "Id"} {
			if v[key] == "" {
				delete(v, key)
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
		sort.Slice(v, func(i, j int) bool {
			one, _ := json.Marshal(v[i])
			two, _ := json.Marshal(v[j])
			return bytes.Compare(one, two) < 0
		})
		return v
	}
	return value
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// secret reads NAME, or the file that NAME_FILE names, as MinIO itself does.
func secret(name string) (string, error) {
	file := os.Getenv(name + "_FILE")
	if file == "" {
		if value := os.Getenv(name); value != "" {
			return value, nil
		}
		return "", fmt.Errorf("neither %s nor %s_FILE is set", name, name)
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join("/run/secrets", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}
