package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestRecord runs a real node for a short while. The record command itself
// fails if replaying the files does not give the state of the node.
func TestRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rec")
	if err := run([]string{"record", "--out", dir, "--blocks", "40", "--restarts", "1", "--interval", "10ms", "--fsync=false"}); err != nil {
		t.Fatal(err)
	}
	sum, err := inspectDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Blocks != 40 || sum.GenesisTxs != 1 || sum.Txs == 0 || sum.FailedTxs == 0 || sum.EmptyBlocks == 0 || sum.Deletes == 0 {
		t.Errorf("summary lacks variety: %+v", sum)
	}
	if len(sum.Restarts) != 1 || sum.Restarts[0] != 21 {
		t.Errorf("restarts are %v, want [21]", sum.Restarts)
	}

	// A file that lost its last byte must not pass.
	name := filepath.Join(dir, "block-7-data")
	bz, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bz[:len(bz)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := inspectDir(dir); err == nil {
		t.Error("a torn file was accepted")
	}
}

// TestOneStore streams a store that most blocks do not touch.
func TestOneStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rec")
	if err := run([]string{"record", "--out", dir, "--blocks", "16", "--restarts", "0", "--keys", "feegrant", "--interval", "10ms"}); err != nil {
		t.Fatal(err)
	}
	bz, err := os.ReadFile(filepath.Join(dir, "block-3-data"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bz, make([]byte, 8)) {
		t.Errorf("data file of a block without changes is %x", bz)
	}
}

// TestCommittedRecording compares the committed recording with its summary.
func TestCommittedRecording(t *testing.T) {
	want, err := os.ReadFile("../../testdata/cosmos-recording.json")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := inspectDir("../../testdata/cosmos-recording")
	if err != nil {
		t.Fatal(err)
	}
	// Test binaries do not know the versions of their dependencies.
	var committed Summary
	if err := json.Unmarshal(want, &committed); err != nil {
		t.Fatal(err)
	}
	sum.SDK, sum.CometBFT = committed.SDK, committed.CometBFT
	got, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("summary is now\n%s", got)
	}
}
