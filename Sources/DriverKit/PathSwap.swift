import Core
import IO

/// Puts a file or directory in the place of another, keeping the other, so that a crash at any system call is mended
/// by calling again.
///
/// Everything happens in a workspace next to the live path, on the same file system:
///
///     /data/ledger.db                              live
///     /data/.salvor-ledger.db-<id>/incomplete      what is being restored; the driver writes it
///     /data/.salvor-ledger.db-<id>/beside          what was restored and proved
///     /data/.salvor-ledger.db-<id>/kept            what was live
///
/// A driver calls ``prepare(mode:)``, writes and checks at ``incomplete``, then ``complete()``; later ``swapIn()``,
/// ``swapOut()`` and ``discard()``. If no one was live before, an empty directory `kept-nothing` says so.
///
/// Nothing is written down about how far a swap got: what exists says it. A swap begins by renaming `beside` to
/// `incoming-<its inode>`; one renameat2(2) with RENAME_EXCHANGE then makes the new state live and the old one
/// `incoming-…`, so there is no moment without a live path; an inode that isn't the one in the name says that this has
/// happened, and a last rename makes it `kept`. ``swapOut()`` is the same with `outgoing-…`. Where the file
/// system has no exchange, two renames do it. ``swapOut()`` after half a ``swapIn()`` finishes that one first, and
/// the other way round.
///
/// *Companions* are files that belong to the main one by name, such as SQLite's `-wal`. Those of the state that goes
/// leave before it, those of the state that comes follow after it: never does one state's companion lie next to the
/// other's main file. After a crash call again before anyone opens the store.
///
/// For every driver whose state is a path. All calls block: run them on ``IO/BlockingPool``.
package struct PathSwap: Sendable {
  /// The file or directory whose place it is; it need not exist, its parent must.
  package let live: String
  /// This restore's own directory.
  package let workspace: String
  /// What is appended to the live path to get its companions' paths.
  package let companions: [String]
  /// Told the name of each call that changes something, before it; a test throws here to stop as a crash would.
  package var beforeCall: @Sendable (_ call: String) throws(DriverError) -> Void = { _ throws(DriverError) in }

  /// - Parameters:
  ///   - workspace: As ``RestoreRequest/workspace(beside:id:)`` names it.
  ///   - companions: Suffixes such as `-wal`; none for a directory.
  package init(live: String, workspace: String, companions: [String] = []) {
    (self.live, self.workspace, self.companions) = (live, workspace, companions)
  }

  package var incomplete: String { "\(workspace)/incomplete" }
  package var beside: String { "\(workspace)/beside" }
  package var kept: String { "\(workspace)/kept" }
  private var keptNothing: String { "\(workspace)/kept-nothing" }

  // MARK: Restoring beside

  /// Whether a finished state waits at ``beside``.
  package func isComplete() throws(DriverError) -> Bool { try isThere(beside) }

  /// Whether ``swapIn()`` has begun, and ``swapOut()`` has not ended: then nothing may be restored beside.
  package func isSwapped() throws(DriverError) -> Bool {
    let state = try observe()
    return state.incoming != nil || state.outgoing != nil || state.isKept
  }

  /// Makes the workspace and clears ``incomplete``.
  ///
  /// - Parameter mode: 0o700 keeps everybody out but who runs Salvor; a server under another user needs 0o711.
  package func prepare(mode: UInt32 = 0o700) throws(DriverError) {
    do {
      try Files.createDirectory(workspace, mode: mode)
      guard chmod(workspace, mode) == 0 else { throw SystemFailure("chmod", path: workspace) }
      for suffix in [""] + companions { try Files.removeTree(incomplete + suffix) }
      if try !isComplete(), try !isSwapped() {
        // A try that ended between two renames of ``complete()``.
        for suffix in companions { try Files.removeTree(beside + suffix) }
      }
    } catch {
      throw DriverError(error)
    }
  }

  /// Says that what lies at ``incomplete`` is whole, synchronised and proved: it is ``beside`` from now on.
  package func complete() throws(DriverError) {
    for suffix in companions where try isThere(incomplete + suffix) {
      try move(incomplete + suffix, to: beside + suffix)
    }
    try move(incomplete, to: beside)
    try synchronize()
  }

  // MARK: Swapping

  /// Makes ``beside`` live and keeps what was live. Does nothing if that has been done.
  ///
  /// - Throws: If nothing was restored beside; if the file system refuses, with the old or the new state live; if
  ///   somebody made a new live path in the middle of a swap.
  package func swapIn() throws(DriverError) {
    if try observe().outgoing != nil { try finishSwapOut() }
    let state = try observe()
    if state.incoming == nil, !(state.hasKeptNothing && !state.hasLive) {
      if state.isKept {
        guard !state.hasBeside else { throw conflict("both a restored and a kept state") }
        return try settleCompanions(from: beside)
      }
      guard state.hasBeside else { throw conflict("nothing that was restored") }
    }
    if state.incoming == nil {
      guard let inode = Self.status(beside)?.inode else { throw conflict("nothing that was restored") }
      try checkSameFileSystem()
      try move(beside, to: "\(workspace)/incoming-\(inode)")
    }
    try finishSwapIn()
  }

  /// Undoes ``swapIn()``: what was kept is live, what was live is ``beside``. Does nothing if there was no swap.
  ///
  /// - Parameter isRecorded: The record says that a swap was begun, so there must be something to show for it: the kept
  ///   state, or beside again what was restored. Neither is a loss and an error, with nothing changed.
  package func swapOut(isRecorded: Bool = false) throws(DriverError) {
    try requireKept(isRecorded)
    guard try isThere(workspace) else { return }
    if try observe().incoming != nil { try finishSwapIn() }
    let state = try observe()
    if state.outgoing == nil, state.isKept {
      if state.hasKeptNothing { return try undoIntoNothing() }
      guard !state.hasBeside else { throw conflict("both a restored and a kept state") }
      guard let inode = Self.status(kept)?.inode else { throw conflict("no kept state") }
      try move(kept, to: "\(workspace)/outgoing-\(inode)")
    }
    try finishSwapOut()
  }

  /// Looks for the kept state, or, if it is back already, for what was restored; changes nothing.
  ///
  /// - Throws: If `isRecorded` and there is neither.
  package func requireKept(_ isRecorded: Bool) throws(DriverError) {
    guard isRecorded else { return }
    guard try isThere(workspace) else { throw lost("the whole directory is missing") }
    let state = try observe()
    guard state.incoming != nil || state.outgoing != nil || state.isKept || state.hasBeside else {
      throw lost("it holds neither that state nor what was restored")
    }
  }

  /// Removes the workspace, after finishing what was half swapped. Does nothing if there is none.
  package func discard() throws(DriverError) {
    let rubbish = workspace + ".discarded"
    if try isThere(workspace) {
      if try observe().incoming != nil { try finishSwapIn() }
      if try observe().outgoing != nil { try finishSwapOut() }
      let state = try observe()
      if state.hasKeptNothing, !state.hasLive { try undoIntoNothing() }
      try settleCompanions(from: state.isKept && state.hasLive ? beside : kept)
      try remove(rubbish)
      // Half a kept state must never be taken for a whole one.
      try move(workspace, to: rubbish)
    }
    try remove(rubbish)
  }

  private func finishSwapIn() throws(DriverError) {
    while let incoming = try observe().incoming {
      let state = try observe()
      if !incoming.isOriginal {
        try synchronize()
        try move(incoming.path, to: kept)
        continue
      }
      if state.hasLive {
        guard !state.isKept else { throw conflict("a kept state, but \(live) was made anew") }
        try sendCompanions(to: kept)
        try trade(incoming.path, toKeep: kept)
        continue
      }
      if !state.isKept {
        try sendCompanions(to: kept)
        try call("mkdir", keptNothing) { mkdir(keptNothing, 0o700) }
      }
      try synchronize()
      try move(incoming.path, to: live)
    }
    try settleCompanions(from: beside)
  }

  private func finishSwapOut() throws(DriverError) {
    while let outgoing = try observe().outgoing {
      let state = try observe()
      if !outgoing.isOriginal {
        try synchronize()
        try move(outgoing.path, to: beside)
        continue
      }
      if state.hasLive {
        guard !state.hasBeside else { throw conflict("a restored state, but \(live) was made anew") }
        try sendCompanions(to: beside)
        try trade(outgoing.path, toKeep: beside)
        continue
      }
      try sendCompanions(to: beside)
      try synchronize()
      try move(outgoing.path, to: live)
    }
    try settleCompanions(from: kept)
  }

  /// Before the swap nobody was live: then nobody is again.
  private func undoIntoNothing() throws(DriverError) {
    let state = try observe()
    if state.hasLive {
      guard !state.hasBeside else { throw conflict("a restored state, but \(live) was made anew") }
      try sendCompanions(to: beside)
      try move(live, to: beside)
    }
    try synchronize()
    try call("rmdir", keptNothing) { rmdir(keptNothing) }
    try settleCompanions(from: kept)
  }

  /// Exchanges `path` with the live one, or moves the live one to `aside` where the file system can't.
  private func trade(_ path: String, toKeep aside: String) throws(DriverError) {
    try beforeCall("exchange \(path)")
    do {
      try Files.exchange(path, live)
    } catch {
      guard [EINVAL, ENOSYS, ENOTSUP].contains(error.number) else { throw DriverError(error) }
      try move(live, to: aside)
    }
    try synchronize()
  }

  /// Companions of the live state go before it does.
  private func sendCompanions(to place: String) throws(DriverError) {
    for suffix in companions where try isThere(live + suffix) { try move(live + suffix, to: place + suffix) }
    try synchronize()
  }

  /// Companions of the state that came follow it.
  private func settleCompanions(from place: String) throws(DriverError) {
    for suffix in companions where try isThere(place + suffix) { try move(place + suffix, to: live + suffix) }
    try synchronize()
  }

  // MARK: What is there

  private struct Passing {
    var path: String
    /// Whether it is still the state that it was named for; if not, it has been exchanged.
    var isOriginal: Bool
  }

  private struct Observed {
    var hasLive = false
    var hasBeside = false
    var hasKept = false
    var hasKeptNothing = false
    var incoming: Passing?
    var outgoing: Passing?

    var isKept: Bool { hasKept || hasKeptNothing }
  }

  private func observe() throws(DriverError) -> Observed {
    var result = Observed()
    result.hasLive = try isThere(live)
    result.hasBeside = try isThere(beside)
    result.hasKept = try isThere(kept)
    result.hasKeptNothing = try isThere(keptNothing)
    guard try isThere(workspace) else { return result }
    result.incoming = try passing("incoming-")
    result.outgoing = try passing("outgoing-")
    return result
  }

  private func passing(_ prefix: String) throws(DriverError) -> Passing? {
    let names: [String]
    do { names = try Files.names(in: workspace).map(\.lossyText).filter { $0.hasPrefix(prefix) } } catch {
      throw DriverError(error)
    }
    guard let name = names.first else { return nil }
    let path = "\(workspace)/\(name)"
    guard names.count == 1, let inode = UInt64(name.dropFirst(prefix.count)), let status = Self.status(path) else {
      throw conflict("unexpected names \(names)")
    }
    return Passing(path: path, isOriginal: status.inode == inode)
  }

  private func isThere(_ path: String) throws(DriverError) -> Bool {
    do { return try Files.isThere(path) } catch { throw DriverError(error) }
  }

  static func status(_ path: String) -> (inode: UInt64, device: UInt64, isLink: Bool)? {
    var status = stat()
    guard lstat(path, &status) == 0 else { return nil }
    return (UInt64(status.st_ino), UInt64(status.st_dev), status.st_mode & S_IFMT == S_IFLNK)
  }

  private func checkSameFileSystem() throws(DriverError) {
    guard let here = Self.status(workspace) else { return }
    if let there = Self.status(live), there.device != here.device {
      throw .system(.init(Self.mountPoint(live)))
    }
  }

  private func lost(_ what: String) -> DriverError {
    .system(
      .init(
        Report("DRIVER-608", "the state that was to be kept in \(workspace) can't be put back: \(what)", retry: .never)
          .state(
            "nothing was changed: if the swap got as far, \(live) is what was restored, else what was there before"
          )
          .remedy("look at \(live); put the state back by hand if you have it elsewhere, or restore an earlier point")))
  }

  private func conflict(_ what: String) -> DriverError {
    .system(
      .init(
        Report("DRIVER-607", "\(workspace) holds \(what)", retry: .never)
          .state("nothing was changed by this call")
          .remedy("look at \(workspace) and \(live): move aside by hand what does not belong there, then try again")))
  }

  // MARK: Calls

  private func call(_ name: String, _ path: String, _ body: () -> Int32) throws(DriverError) {
    try beforeCall("\(name) \(path)")
    guard body() == 0 else { throw DriverError(SystemFailure(name, path: path)) }
  }

  private func move(_ from: String, to: String) throws(DriverError) {
    try beforeCall("rename \(from)")
    do { try Files.renameExclusive(from, to: to) } catch { throw DriverError(error) }
  }

  private func remove(_ path: String) throws(DriverError) {
    try beforeCall("remove \(path)")
    do { try Files.removeTree(path) } catch { throw DriverError(error) }
  }

  /// Renames are ordered by making each durable before the next that relies on it.
  private func synchronize() throws(DriverError) {
    do {
      try Files.synchronizeDirectory(workspace)
      try Files.synchronizeDirectory(Files.parent(of: live))
    } catch {
      throw DriverError(error)
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
