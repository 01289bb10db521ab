import Core
import IO
import Synchronization

/// Directories of this machine, listed ahead of whoever takes them in.
///
/// Nothing is read but directories and metadata, and no repository is needed: so it can begin before one is open. One task runs
/// it, another takes what was found, in order. It stays a bounded way ahead, and keeps open only the directories above the one
/// it is in.
package final class Survey: Sendable {
  /// A directory and what is in it. Those below follow at once, in the order of their names.
  struct Step: Sendable {
    /// How many directories lie above it, from its target's on.
    var depth: Int
    var path: TreePath
    /// `nil` for the stand-in above a target, whose only entry is the target.
    var metadata: FileMetadata?
    /// Ascending by name.
    var entries: [Entry] = []
    /// Of entries about which nothing is known.
    var problems: [SystemFailure] = []
    /// Why nothing is known of the directory.
    var failure: SystemFailure?
  }

  struct Entry: Sendable {
    var name: FileName
    var metadata: FileMetadata
  }

  private struct State {
    var ready: [Step] = []
    var entries = 0
    var bytes: Int64 = 0
    var isTaken = false
    var isRunning = false
    var isOver = false
    var isCut = false
    /// Waits for something to be ready.
    var taker: CheckedContinuation<Void, Never>?
    /// Waits for room.
    var lister: CheckedContinuation<Void, Never>?
  }

  let targets: [TreePath]
  private let excludes: [ExcludePattern]
  private let staysOnFileSystem: Bool
  private let pool: BlockingPool
  private let ahead: Int
  private let state = Mutex(State())

  /// - Parameters:
  ///   - paths: Absolute; what lies in another of them is taken once.
  ///   - staysOnFileSystem: Directories on other file systems than their target's are taken as empty.
  ///   - ahead: How many entries, about, may be listed and not taken; eight times as many before the first is taken. What was
  ///     listed long ago isn't true any more: no more than is read within seconds.
  package init(
    _ paths: [String], excludes: [ExcludePattern] = [], staysOnFileSystem: Bool = false, pool: BlockingPool = .shared,
    ahead: Int = 16_384
  ) throws(TreeError) {
    var all: Set<TreePath> = []
    for text in paths {
      let path = TreePath(text)
      guard text.hasPrefix("/"), !path.components.contains(where: { FileName(untrusted: $0.bytes) == nil }) else {
        throw .badPath(path, why: "a target is an absolute path without '.' and '..'")
      }
      all.insert(path)
    }
    var kept: [TreePath] = []
    for target in all.sorted() where !kept.contains(where: { target.components.starts(with: $0.components) }) {
      kept.append(target)
    }
    targets = kept
    (self.excludes, self.staysOnFileSystem, self.pool, self.ahead) = (excludes, staysOnFileSystem, pool, ahead)
  }

  /// Lists until everything is found, or until it is cancelled; does nothing if somebody else does it already.
  package func run() async {
    let isMine = state.withLock { state in
      defer { state.isRunning = true }
      return !state.isRunning
    }
    guard isMine else { return }
    // Directories on the way down stay open.
    Files.raiseOpenFileLimit()
    let listing = Listing(targets, excludes, staysOnFileSystem)
    await withTaskCancellationHandler {
      while await hasRoom() {
        let steps = await pool.run { listing.some() }
        if steps.isEmpty { break }
        put(steps)
      }
    } onCancel: {
      end(isCut: true)
    }
    end()
  }

  /// As if it had been cancelled.
  package func stop() { end(isCut: true) }

  /// Whether it was cancelled, so that what came isn't all there is.
  var isCut: Bool { state.withLock { $0.isCut } }

  /// What was found since the last call, in order; empty once there is no more. One caller at a time.
  func next() async -> [Step] {
    await withCheckedContinuation { continuation in
      let isReady = state.withLock { state in
        if state.isOver || !state.ready.isEmpty { return true }
        state.taker = continuation
        return false
      }
      if isReady { continuation.resume() }
    }
    let (steps, lister) = state.withLock { state in
      let steps = state.ready
      (state.ready, state.entries, state.bytes, state.isTaken) = ([], 0, 0, true)
      defer { state.lister = nil }
      return (steps, state.lister)
    }
    lister?.resume()
    return steps
  }

  private func hasRoom() async -> Bool {
    await withCheckedContinuation { continuation in
      let goesOn = state.withLock { state in
        let limit = state.isTaken ? ahead : Self.headStart * ahead
        if state.isOver || state.entries < limit && state.bytes < Self.bytesAhead { return true }
        state.lister = continuation
        return false
      }
      if goesOn { continuation.resume() }
    }
    return state.withLock { !$0.isOver }
  }

  private func put(_ steps: [Step]) {
    let taker = state.withLock { state in
      for step in steps {
        state.entries += 1 + step.entries.count
        // A sparse file may claim any size, and so may the next one.
        for entry in step.entries { state.bytes += min(entry.metadata.size, Self.bytesAhead) }
      }
      state.ready += steps
      defer { state.taker = nil }
      return state.taker
    }
    taker?.resume()
  }

  private func end(isCut: Bool = false) {
    let waiting = state.withLock { state in
      state.isOver = true
      if isCut { state.isCut = true }
      defer { (state.taker, state.lister) = (nil, nil) }
      return [state.taker, state.lister]
    }
    for one in waiting { one?.resume() }
  }

  private static let bytesAhead: Int64 = 4 << 30
  private static let headStart = 8

  /// Where the listing is. Every call blocks.
  private final class Listing: @unchecked Sendable {
    // Handed from one thread to the next, never shared.
    private struct Frame {
      var reader: DirectoryReader
      var path: TreePath
      var device: UInt64
      /// Still to be entered, the next one last.
      var directories: [Entry]
    }

    private var stack: [Frame] = []
    /// The next one last.
    private var targets: [TreePath]
    private let excludes: [ExcludePattern]
    private let staysOnFileSystem: Bool

    init(_ targets: [TreePath], _ excludes: [ExcludePattern], _ staysOnFileSystem: Bool) {
      (self.targets, self.excludes, self.staysOnFileSystem) = (targets.reversed(), excludes, staysOnFileSystem)
    }

    /// Enough to be worth a change of threads; empty at the end.
    func some() -> [Step] {
      var result: [Step] = []
      var entries = 0
      while entries < 1024, let step = next() {
        entries += 1 + step.entries.count
        result.append(step)
      }
      return result
    }

    private func next() -> Step? {
      while let top = stack.indices.last {
        if let directory = stack[top].directories.popLast() { return enter(directory, top) }
        stack.removeLast()
      }
      return targets.popLast().map { begin($0) }
    }

    private func enter(_ entry: Entry, _ top: Int) -> Step {
      let parent = stack[top]
      var step = Step(depth: stack.count, path: parent.path.appending(entry.name), metadata: entry.metadata)
      do throws(SystemFailure) {
        let reader = try parent.reader.directory(entry.name)
        // Of another file system only the directory is taken.
        if staysOnFileSystem, entry.metadata.device != parent.device { return step }
        try list(reader, &step)
        push(reader, step, parent.device)
      } catch { step.failure = error }
      return step
    }

    private func begin(_ target: TreePath) -> Step {
      var step = Step(depth: 0, path: target)
      do throws(SystemFailure) {
        guard let name = target.last else {
          let reader = try DirectoryReader("/")
          let metadata = try reader.metadata()
          step.metadata = metadata
          try list(reader, &step)
          push(reader, step, metadata.device)
          return step
        }
        step.path = target.parent
        let reader = try DirectoryReader.at(target.parent)
        let metadata = try reader.metadata(of: name)
        if !excludes.contains(where: { $0.matches(target) }) { step.entries = [Entry(name: name, metadata: metadata)] }
        push(reader, step, metadata.device)
      } catch { step.failure = error }
      return step
    }

    private func push(_ reader: DirectoryReader, _ step: Step, _ device: UInt64) {
      var directories = step.entries.filter(\.metadata.kind.isDirectory)
      directories.reverse()
      stack.append(Frame(reader: reader, path: step.path, device: device, directories: directories))
    }

    private func list(_ reader: DirectoryReader, _ step: inout Step) throws(SystemFailure) {
      for name in try reader.names() {
        if !excludes.isEmpty {
          let path = step.path.appending(name)
          if excludes.contains(where: { $0.matches(path) }) { continue }
        }
        do throws(SystemFailure) {
          step.entries.append(Entry(name: name, metadata: try reader.metadata(of: name)))
        } catch { step.problems.append(error) }
      }
    }
  }
}
