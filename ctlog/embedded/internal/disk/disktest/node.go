package disktest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
)

const block = 4096

// node is a file or a directory: as it is, and as it is on the disk for certain.
type node struct {
	perm os.FileMode

	// Of a directory. changes lead from durable to names.
	names, durable map[string]*node
	changes        []entry

	// Of a file. Blocks that are not there are zero.
	blocks map[int64][]byte
	size   int64
	dirty  map[int64][]byte // what blocks had on the disk
	synced int64            // the size on the disk
}

// entry is a change to a directory: the name is node's from now on, and nobody's
// if that is nil. Of a rename within the directory, old is nobody's any more.
type entry struct {
	name, old string
	node      *node
}

func newDir(perm os.FileMode) *node {
	return &node{perm: perm, names: map[string]*node{}, durable: map[string]*node{}}
}

func newFile(perm os.FileMode) *node {
	return &node{perm: perm, blocks: map[int64][]byte{}, dirty: map[int64][]byte{}}
}

func (n *node) dir() bool { return n.names != nil }

// load reads a directory or a file.
func load(path string) (*node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		raw, err := os.ReadFile(path)
		f := newFile(info.Mode().Perm())
		f.change(step{data: raw, size: len(raw)})
		f.settle()
		return f, err
	}
	d := newDir(info.Mode().Perm())
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		n, err := load(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		d.enter(entry{name: e.Name(), node: n})
	}
	d.settle()
	return d, nil
}

// clone copies a node of which all is on the disk.
func (n *node) clone() *node {
	c := *n
	if n.dir() {
		c.names, c.durable = map[string]*node{}, map[string]*node{}
		for name, child := range n.names {
			c.names[name] = child.clone()
		}
		maps.Copy(c.durable, c.names)
		return &c
	}
	c.blocks, c.dirty = maps.Clone(n.blocks), map[int64][]byte{}
	return &c
}

func (n *node) enter(e entry) {
	e.into(n.names)
	n.changes = append(n.changes, e)
}

func (e entry) into(names map[string]*node) {
	if e.old != "" {
		delete(names, e.old)
	}
	delete(names, e.name)
	if e.node != nil {
		names[e.name] = e.node
	}
}

// change writes to a file.
func (n *node) change(s step) {
	for at := int64(0); at < int64(s.size); {
		index, within := (s.offset+at)/block, (s.offset+at)%block
		count := min(block-within, int64(s.size)-at)
		before := n.blocks[index]
		after := make([]byte, block)
		copy(after, before)
		if s.data != nil {
			copy(after[within:], s.data[at:at+count])
		} else {
			clear(after[within : within+count])
		}
		at += count
		if before == nil && zero(after) {
			continue
		}
		if _, ok := n.dirty[index]; !ok {
			n.dirty[index] = before
		}
		n.blocks[index] = after
	}
	n.size = max(n.size, s.offset+int64(s.size))
}

// settle brings all of it to the disk, of a directory the names.
func (n *node) settle() {
	if n.dir() {
		n.durable, n.changes = maps.Clone(n.names), nil
		return
	}
	clear(n.dirty)
	n.synced = n.size
}

// write makes the node anew, as it may be on the disk.
func (n *node) write(path string, power Power) error {
	if !n.dir() {
		return n.writeFile(path, power)
	}
	if err := os.Mkdir(path, n.perm|0o700); err != nil {
		return err
	}
	names := maps.Clone(n.durable)
	for _, e := range n.changes[:power(len(n.changes))] {
		e.into(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := names[name].write(filepath.Join(path, name), power); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) writeFile(path string, power Power) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, n.perm)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size := n.synced
	if n.size != n.synced && power(1) == 1 {
		size = n.size
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, index := range slices.Sorted(maps.Keys(n.blocks)) {
		data := n.blocks[index]
		if before, ok := n.dirty[index]; ok && power(1) == 0 {
			data = before
		}
		if at := index * block; at < size && data != nil {
			if _, err := f.WriteAt(data[:min(block, size-at)], at); err != nil {
				return err
			}
		}
	}
	return nil
}
