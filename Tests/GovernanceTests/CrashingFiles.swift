import Core
import IO
import Synchronization

@testable import Governance

#if canImport(Glibc)
  import Glibc
#endif

/// Files in memory that forget what was not made durable, and go down at the call they are told to.
///
/// Stricter than a disk: a name is lost without its directory's fsync, content without the file's own, each by itself.
final class CrashingFiles: LogFiles {
  struct Disk {
    var names: [String: Int] = [:]
    var directories: Set<String> = [""]
    var contents: [Int: [UInt8]] = [:]
  }

  private struct State {
    var seen = Disk()
    var durable = Disk()
    var nextInode = 0
    var calls = 0
    var crashesAt: Int?
    /// The call itself happens before the machine goes down.
    var crashesAfter = false
    var isDown = false
  }

  private let state: Mutex<State>

  /// - Parameter disk: What is there, durably.
  init(_ disk: Disk = Disk(), crashesAt call: Int? = nil, after: Bool = false) {
    var initial = State()
    (initial.seen, initial.durable) = (disk, disk)
    initial.nextInode = (disk.contents.keys.max() ?? 0) + 1
    (initial.crashesAt, initial.crashesAfter) = (call, after)
    state = Mutex(initial)
  }

  var calls: Int { state.withLock { $0.calls } }
  var isDown: Bool { state.withLock { $0.isDown } }
  /// As if the power had gone now, and nothing had been written that did not have to be.
  var durable: Disk { state.withLock { Self.cleaned($0.durable) } }
  /// As if the process had been killed.
  var seen: Disk { state.withLock { $0.seen } }

  /// As if the power had gone, and some of what did not have to be written had been, some half.
  func torn(_ chance: SeededRandomness) -> Disk {
    state.withLock { state in
      var disk = Disk()
      func flip() -> Int { Int(chance.bytes(1)[0]) }
      disk.directories = state.durable.directories.union(state.seen.directories.filter { _ in flip() % 2 == 0 })
      for path in Set(state.durable.names.keys).union(state.seen.names.keys).sorted() {
        let inode = flip() % 2 == 0 ? state.seen.names[path] : state.durable.names[path]
        guard let inode else { continue }
        disk.names[path] = inode
        let (old, new) = (state.durable.contents[inode] ?? [], state.seen.contents[inode] ?? [])
        disk.contents[inode] =
          old == new
          ? new : [old, new, Array(new.prefix(new.count / 2)), [UInt8](repeating: 0, count: new.count)][flip() % 4]
      }
      return Self.cleaned(disk)
    }
  }

  /// What is in a directory that is not there is not there either.
  private static func cleaned(_ disk: Disk) -> Disk {
    var disk = disk
    disk.directories = disk.directories.filter { path in
      var parent = path
      while !parent.isEmpty {
        parent = Self.parent(parent)
        if !disk.directories.contains(parent) { return false }
      }
      return true
    }
    disk.names = disk.names.filter { disk.directories.contains(parent($0.key)) }
    let inodes = Set(disk.names.values)
    disk.contents = disk.contents.filter { inodes.contains($0.key) }
    return disk
  }

  private static func parent(_ path: String) -> String {
    path.lastIndex(of: "/").map { String(path[..<$0]) } ?? ""
  }

  private func call(_ name: String, _ path: String, _ body: (inout State) throws(SystemFailure) -> Void)
    throws(SystemFailure)
  {
    try state.withLock { (state) throws(SystemFailure) in
      guard !state.isDown else { throw SystemFailure(name, path: path, number: EIO) }
      state.calls += 1
      if state.calls == state.crashesAt {
        state.isDown = true
        if state.crashesAfter { try body(&state) }
        throw SystemFailure(name, path: path, number: EIO)
      }
      try body(&state)
    }
  }

  func read(_ path: String, limitBytes: Int) throws(SystemFailure) -> [UInt8]? {
    try state.withLock { (state) throws(SystemFailure) in
      guard !state.isDown else { throw SystemFailure("read", path: path, number: EIO) }
      let bytes = state.seen.names[path].flatMap { state.seen.contents[$0] }
      if let bytes, bytes.count > limitBytes { throw SystemFailure("read", path: path, number: EFBIG) }
      return bytes
    }
  }

  func names(in path: String) throws(SystemFailure) -> [String] {
    state.withLock { state in
      state.seen.names.keys.filter { Self.parent($0) == path }.map { String($0.dropFirst(path.count + 1)) }.sorted()
    }
  }

  func write(_ path: String, _ bytes: [UInt8]) throws(SystemFailure) {
    try call("write", path) { (state) throws(SystemFailure) in
      guard state.seen.directories.contains(Self.parent(path)) else {
        throw SystemFailure("open", path: path, number: ENOENT)
      }
      let inode = state.seen.names[path] ?? state.nextInode
      state.nextInode = max(state.nextInode, inode + 1)
      state.seen.names[path] = inode
      state.seen.contents[inode] = bytes
    }
  }

  func synchronize(_ path: String) throws(SystemFailure) {
    try call("fsync", path) { (state) throws(SystemFailure) in
      guard let inode = state.seen.names[path] else { throw SystemFailure("open", path: path, number: ENOENT) }
      state.durable.contents[inode] = state.seen.contents[inode]
    }
  }

  func rename(_ path: String, to other: String) throws(SystemFailure) {
    try call("rename", path) { (state) throws(SystemFailure) in
      guard let inode = state.seen.names.removeValue(forKey: path) else {
        throw SystemFailure("rename", path: path, number: ENOENT)
      }
      state.seen.names[other] = inode
    }
  }

  func makeDirectory(_ path: String) throws(SystemFailure) {
    try call("mkdir", path) { (state) throws(SystemFailure) in
      guard state.seen.directories.contains(Self.parent(path)) else {
        throw SystemFailure("mkdir", path: path, number: ENOENT)
      }
      state.seen.directories.insert(path)
    }
  }

  func synchronizeDirectory(_ path: String) throws(SystemFailure) {
    try call("fsync", path) { (state) throws(SystemFailure) in
      guard state.seen.directories.contains(path) else { throw SystemFailure("open", path: path, number: ENOENT) }
      for name in Set(state.durable.names.keys).union(state.seen.names.keys) where Self.parent(name) == path {
        state.durable.names[name] = state.seen.names[name]
      }
      for directory in state.seen.directories where Self.parent(directory) == path {
        state.durable.directories.insert(directory)
      }
    }
  }

  func remove(_ path: String) throws(SystemFailure) {
    try call("unlink", path) { (state) throws(SystemFailure) in state.seen.names[path] = nil }
  }

  func alone<T>(_ body: () throws(LogError) -> T) throws(LogError) -> T { try body() }

  // MARK: For planting damage

  var paths: [String] { state.withLock { $0.seen.names.keys.sorted() } }

  func content(_ path: String) -> [UInt8] {
    state.withLock { state in state.seen.names[path].flatMap { state.seen.contents[$0] } ?? [] }
  }

  func plant(_ path: String, _ bytes: [UInt8]?) {
    state.withLock { state in
      if let bytes, let inode = state.seen.names[path] {
        state.seen.contents[inode] = bytes
      } else {
        state.seen.names[path] = nil
      }
    }
  }
}
