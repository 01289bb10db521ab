import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

extension SnapshotTree {
  /// Brings the tree below `root` back into `directory`.
  ///
  /// Directories first; then every blob is read once and written to all its places, runs of zeros as holes; then
  /// further names of files, special files; owners, attributes, modes and times last, directories deepest first.
  /// Returns when everything is on stable storage. No symbolic link below `directory` is ever followed.
  ///
  /// In place, what stands there is read first, and only blobs that differ are fetched. A restore that was interrupted is
  /// taken up that way.
  ///
  /// - Returns: What was done; look at ``RestoreReport/failures``.
  /// - Throws: If nothing could be written, or a blob is missing or damaged. What was written by then stays.
  package func restore(
    _ root: TreePath = TreePath(), to directory: String, _ options: RestoreOptions = RestoreOptions()
  ) async throws(TreeError) -> RestoreReport {
    let trees = try await allTrees(below: try await tree(at: root))
    let reader = reader
    let selection = RestoreSelection(include: options.include, exclude: options.exclude)
    var plan = try RestorePlan(trees, selection) { reader.length(.data, $0) }
    do {
      var standing: StandingFiles?
      if case .inPlace(let existing) = options.overwrite,
        await pool.run({ !options.isDryRun || Files.exists(directory) })
      {
        let target = try await pool.run { () throws(SystemFailure) in try TreeTarget(directory) }
        let found = try await StandingFiles.find(
          plan, existing, target, options, pool, { reader.length(.data, $0) })
        found.takeOut(of: &plan)
        standing = found
      }
      let run = RestoreRun(plan, options, standing)
      if options.isDryRun { return run.report }
      let target = try await pool.run { () throws(SystemFailure) -> TreeTarget? in
        let target = try TreeTarget(directory)
        if options.overwrite == .never, try !target.isEmpty() { return nil }
        return target
      }
      guard let target else { throw TreeError.targetNotEmpty(directory) }
      try await write(run, target)
      return run.report
    } catch { throw TreeError(error) }
  }

  private func write(_ run: RestoreRun, _ target: TreeTarget) async throws {
    try await pool.run { () throws(SystemFailure) in try run.prepare(target) }
    try Task.checkCancellation()
    let writeBack = WriteBack { [pool] in
      try await pool.run { () throws(SystemFailure) in try target.synchronize() }
    }
    try await writeBack.during { try await writeContents(run, target, writeBack) }
    await pool.run {
      run.finishLinks(target)
      run.finishDirectories(target)
    }
    try await writeBack.synchronize()
  }

  private func writeContents(_ run: RestoreRun, _ target: TreeTarget, _ writeBack: WriteBack) async throws {
    for (number, blobs) in run.waves.enumerated() {
      // What had to come first can be relied on before the others begin.
      if number > 0 { try await writeBack.synchronize() }
      do throws(VaultError) {
        try await reader.lendMany(.data, blobs, parallel: run.options.parallel, pool: pool) {
          (id, bytes) throws(VaultError) -> Void in
          if Task.isCancelled { throw .cancelled }
          do throws(SystemFailure) { try run.write(id, bytes, target, writeBack) } catch {
            throw .outside(AnyFailure(error))
          }
        }
      } catch {
        if case .outside(let failure) = error { throw failure.underlying }
        throw error
      }
    }
  }
}

/// A restore under way. Every method blocks.
final class RestoreRun: Sendable {
  let plan: RestorePlan
  let options: RestoreOptions
  /// `nil` unless it is in place.
  private let standing: StandingFiles?

  private struct State {
    var report = RestoreReport()
    /// Blobs of each file that are still to come.
    var missing: [Int32]
    var isMade: [Bool]
    var isBroken: [Bool]
    var doneBytes: Int64 = 0
    /// Directories that were written to lately.
    var open: [Int: TargetDirectory] = [:]
  }

  private let state: Mutex<State>
  /// What new files get by themselves.
  private let defaults = Mutex<NewFileDefaults?>(nil)
  /// What is written past the page cache goes through these.
  private let spare = Mutex<[PageBuffer]>([])
  /// Held while a file that several threads write to is made.
  private let making = Mutex(())

  init(_ plan: RestorePlan, _ options: RestoreOptions, _ standing: StandingFiles? = nil) {
    (self.plan, self.options, self.standing) = (plan, options, standing)
    var report = RestoreReport(totals: plan.totals)
    (report.keptBytes, report.leftFiles) = (standing?.keptBytes ?? 0, standing?.leftFiles ?? 0)
    report.writtenBytes = plan.totals.bytes - report.keptBytes - (standing?.leftBytes ?? 0)
    var missing = [Int32](repeating: 0, count: plan.files.count)
    for place in plan.places.values.joined() where missing[place.file] < .max { missing[place.file] += 1 }
    state = Mutex(
      State(
        report: report, missing: missing, isMade: [Bool](repeating: false, count: plan.files.count),
        isBroken: [Bool](repeating: false, count: plan.files.count), doneBytes: report.keptBytes))
  }

  var report: RestoreReport {
    state.withLock { state in
      var report = state.report
      if !options.isDryRun { report.writtenBytes = state.doneBytes - report.keptBytes }
      // Two that write to one file may both have met it.
      report.failures = Set(report.failures).sorted()
      return report
    }
  }

  /// What has to be read, in the order in which files are wanted; each blob once, when it is wanted first.
  var waves: [[BlobID]] {
    if options.first.isEmpty { return [Array(plan.places.keys)] }
    let ranks = plan.ranks(options.first)
    var result = [[BlobID]](repeating: [], count: options.first.count + 1)
    for (id, places) in plan.places {
      result[places.reduce(options.first.count) { min($0, ranks[$1.file]) }].append(id)
    }
    return result.filter { !$0.isEmpty }
  }

  /// Makes every directory, and every file without content. A directory that can't be made ends the restore.
  func prepare(_ target: TreeTarget) throws(SystemFailure) {
    let found = target.defaults()
    defaults.withLock { $0 = found }
    for directory in plan.directories where !directory.children.isEmpty {
      let place = try target.directory(directory.path)
      for name in directory.children {
        do throws(SystemFailure) { try place.makeDirectory(name) } catch {
          guard options.overwrite != .never, error.number == EEXIST else { throw error }
        }
      }
    }
    for directory in plan.directories {
      let empty = directory.files.filter { isEmpty($0) || standing?.isWhole($0) == true }
      guard !empty.isEmpty else { continue }
      let place = try target.directory(directory.path)
      for index in empty {
        try attempt(index) { () throws(SystemFailure) in
          let metadata = plan.files[index].metadata
          guard let entry = standing?.files[index].inPlace else {
            return try create(index, place).apply(metadata, options.rights)
          }
          let size = plan.files[index].size
          let file =
            try entry.size == size
            ? place.openStanding(plan.files[index].name, entry)
            : place.openStandingForWriting(plan.files[index].name, entry)
          if entry.size != size { try file.truncate(to: size) }
          try finish(file, index)
        }
      }
    }
  }

  private func isEmpty(_ index: Int) -> Bool { plan.files[index].content.isEmpty && !(standing?.files[index] == .left) }

  /// A new file; what has its name in the way goes first, if that was asked for.
  private func create(_ index: Int, _ directory: TargetDirectory, mode: UInt16 = 0o600) throws(SystemFailure) -> File {
    if standing?.files[index] == .inTheWay { try directory.remove(plan.files[index].name) }
    return try directory.createFile(plan.files[index].name, mode: mode)
  }

  /// Metadata, once the content is whole.
  private func finish(_ file: File, _ index: Int) throws(SystemFailure) {
    let metadata = plan.files[index].metadata
    if standing?.files[index].inPlace != nil { try file.removeAttributes(notIn: metadata, options.rights) }
    try file.apply(metadata, options.rights)
  }

  // MARK: Content

  /// Writes a blob to all its places.
  func write(
    _ id: BlobID, _ bytes: UnsafeRawBufferPointer, _ target: TreeTarget, _ writeBack: WriteBack
  ) throws(SystemFailure) {
    var (written, made) = (Int64(0), 0)
    for place in plan.places[id] ?? [] {
      written += Int64(bytes.count)
      if place.offset == 0 { made += 1 }
      try attempt(place.file) { () throws(SystemFailure) in
        let file = plan.files[place.file]
        let directory = try directory(file.directory, target)
        if file.content.count == 1, standing?.files[place.file].inPlace == nil {
          try writeWhole(bytes, to: place.file, directory)
        } else {
          try write(bytes, to: place, file, directory)
        }
      }
    }
    let done = state.withLock { state in
      state.doneBytes += written
      return state.doneBytes
    }
    writeBack.wrote(written, files: made)
    if written > 0 { options.progress(done) }
  }

  /// A file of one blob: nobody else writes to it.
  private func writeWhole(
    _ bytes: UnsafeRawBufferPointer, to index: Int, _ directory: TargetDirectory
  ) throws(SystemFailure) {
    let file = plan.files[index]
    let mode = defaults.withLock { $0 }?.mode(for: file.metadata, options.rights)
    let handle = try create(index, directory, mode: mode ?? 0o600)
    if try writeData(bytes, to: handle, at: 0) < bytes.count { try handle.truncate(to: file.size) }
    try handle.apply(file.metadata, options.rights, isOwned: mode != nil)
  }

  private func write(
    _ bytes: UnsafeRawBufferPointer, to place: RestorePlan.Place, _ file: RestorePlan.File,
    _ directory: TargetDirectory
  ) throws(SystemFailure) {
    let handle = try openFile(place.file, file, directory)
    if let entry = standing?.files[place.file].inPlace, place.offset < entry.size {
      // Zeros have to be written here: something else may stand in their place.
      try handle.write(bytes, at: place.offset)
    } else {
      _ = try writeData(bytes, to: handle, at: place.offset, isUncached: file.size >= Self.uncachedBytes)
    }
    let isLast = state.withLock { state in
      state.missing[place.file] -= 1
      return state.missing[place.file] == 0
    }
    if isLast { try finish(handle, place.file) }
  }

  /// Writes everything but runs of zeros.
  ///
  /// - Returns: Where in `bytes` the last write ended.
  private func writeData(
    _ bytes: UnsafeRawBufferPointer, to file: File, at offset: Int64, isUncached: Bool = false
  ) throws(SystemFailure) -> Int {
    var end = 0
    try ZeroRuns.forEachData(in: bytes) { (range) throws(SystemFailure) -> Void in
      let data = UnsafeRawBufferPointer(rebasing: bytes[range])
      if isUncached, data.count >= Self.largeBytes {
        let pages = spare.withLock { $0.popLast() } ?? PageBuffer(capacity: 2 << 20)
        defer { spare.withLock { $0.append(pages) } }
        try file.writeUncached(data, at: offset + Int64(range.lowerBound), through: pages.memory)
      } else {
        try file.write(data, at: offset + Int64(range.lowerBound))
      }
      end = range.upperBound
    }
    if bytes.count >= Self.largeBytes { file.beginWriting(offset..<offset + Int64(bytes.count)) }
    return end
  }

  /// Files of this size are written past the page cache: they would only push out what others need, and everything has to
  /// be on stable storage at the end anyway.
  private static let uncachedBytes: Int64 = 16 << 20
  /// What is shorter is left for the end.
  private static let largeBytes = 256 << 10

  private func directory(_ index: Int, _ target: TreeTarget) throws(SystemFailure) -> TargetDirectory {
    if let open = state.withLock({ $0.open[index] }) { return open }
    let opened = try target.directory(plan.directories[index].path)
    state.withLock { state in
      if state.open.count >= Self.openLimit { state.open.removeAll(keepingCapacity: true) }
      state.open[index] = opened
    }
    return opened
  }

  private static let openLimit = 64

  /// The file, made at its full length by whoever comes first, so that zeros need not be written.
  private func openFile(
    _ index: Int, _ file: RestorePlan.File, _ directory: TargetDirectory
  ) throws(SystemFailure) -> File {
    if !state.withLock({ $0.isMade[index] }) {
      // The second writer of a file must find it made.
      let made = making.withLock { _ -> Result<File?, SystemFailure> in
        if state.withLock({ $0.isMade[index] }) { return .success(nil) }
        do throws(SystemFailure) {
          let handle: File
          if let entry = standing?.files[index].inPlace {
            handle = try directory.openStandingForWriting(file.name, entry)
          } else {
            handle = try create(index, directory)
          }
          try handle.truncate(to: file.size)
          state.withLock { $0.isMade[index] = true }
          return .success(handle)
        } catch { return .failure(error) }
      }
      if let handle = try made.get() { return handle }
    }
    return try directory.openFile(file.name)
  }

  // MARK: The rest

  /// Special files and further names, once every file is there.
  func finishLinks(_ target: TreeTarget) {
    for directory in plan.directories where !directory.others.isEmpty {
      guard let place = opened(target, directory.path) else { continue }
      for other in plan.others[directory.others] {
        do throws(SystemFailure) { try make(other, in: place, target) } catch { fail(error) }
      }
    }
  }

  private func make(
    _ other: RestorePlan.Other, in place: TargetDirectory, _ target: TreeTarget
  ) throws(SystemFailure) {
    if let standing, let entry = try place.standing(other.name) {
      if standing.isLeft(entry, other.metadata) {
        return state.withLock { $0.report.leftFiles += 1 }
      }
      if try isRight(entry, other, in: place, target) {
        if other.linkTo != nil { return state.withLock { $0.report.hardLinks += 1 } }
        return try place.apply(other.metadata, to: other.name, options.rights)
      }
      try place.remove(other.name)
    }
    if let link = other.linkTo {
      try self.link(link, as: other.name, in: place, target)
      state.withLock { $0.report.hardLinks += 1 }
    } else {
      try place.make(other.metadata.kind, other.name)
      try place.apply(other.metadata, to: other.name, options.rights)
    }
  }

  /// Whether what stands there needs no making anew.
  private func isRight(
    _ entry: StandingEntry, _ other: RestorePlan.Other, in place: TargetDirectory, _ target: TreeTarget
  ) throws(SystemFailure) -> Bool {
    switch other.linkTo {
    case .file(let index)?:
      let file = plan.files[index]
      return try target.directory(plan.directories[file.directory].path).standing(file.name)?.isSameFile(entry) == true
    case .other(let directory, let first)?:
      return try target.directory(plan.directories[directory].path).standing(plan.others[first].name)?
        .isSameFile(entry) == true
    case nil:
      // Many names may lead to it, and what is set here would be set for all of them.
      if entry.links > 1 { return false }
      if case .symbolicLink(let text) = other.metadata.kind { return place.isLink(other.name, to: text) }
      return entry.isSpecial(other.metadata.kind)
    }
  }

  private func link(
    _ link: RestorePlan.Link, as name: FileName, in place: TargetDirectory, _ target: TreeTarget
  ) throws(SystemFailure) {
    switch link {
    case .file(let index):
      let file = plan.files[index]
      try place.link(file.name, in: try target.directory(plan.directories[file.directory].path), as: name)
    case .other(let directory, let first):
      try place.link(plan.others[first].name, in: try target.directory(plan.directories[directory].path), as: name)
    }
  }

  /// Deepest first: making an entry changes the times of its directory, and a mode may shut it.
  func finishDirectories(_ target: TreeTarget) {
    for directory in plan.directories.reversed() {
      guard let metadata = directory.metadata else { continue }
      do throws(SystemFailure) {
        try target.open(directory.path, O_RDONLY | O_DIRECTORY).apply(metadata, options.rights)
      } catch { fail(error) }
    }
  }

  private func opened(_ target: TreeTarget, _ path: TreePath) -> TargetDirectory? {
    do throws(SystemFailure) { return try target.directory(path) } catch {
      fail(error)
      return nil
    }
  }

  /// One file's failure is reported and ends that file only; a full or broken disk ends everything.
  private func attempt(_ index: Int, _ body: () throws(SystemFailure) -> Void) throws(SystemFailure) {
    if state.withLock({ $0.isBroken[index] }) { return }
    do throws(SystemFailure) { try body() } catch {
      if [ENOSPC, EDQUOT, EROFS, EIO].contains(error.number) { throw error }
      state.withLock { $0.isBroken[index] = true }
      fail(error)
    }
  }

  private func fail(_ error: SystemFailure) { state.withLock { $0.report.failures.append(error.report.summary) } }
}

/// Finds what need not be written into a file that is all zeros already.
enum ZeroRuns {
  /// Shorter runs are written: a hole costs more than it saves.
  static let granularity = 4096

  /// Calls `body` with every stretch that holds anything but zeros, in order, in whole blocks of 4 KiB.
  static func forEachData<E: Error>(
    in bytes: UnsafeRawBufferPointer, _ body: (Range<Int>) throws(E) -> Void
  ) throws(E) {
    var start = 0
    var position = 0
    while position < bytes.count {
      let end = min(position + granularity, bytes.count)
      if isZero(bytes, position..<end) {
        if start < position { try body(start..<position) }
        start = end
      }
      position = end
    }
    if start < position { try body(start..<position) }
  }

  private static func isZero(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> Bool {
    guard let base = bytes.baseAddress else { return true }
    // A block that begins as its own rest continues, with a zero, is zero throughout.
    guard bytes[range.lowerBound] == 0 else { return false }
    return memcmp(base + range.lowerBound, base + range.lowerBound + 1, range.count - 1) == 0
  }
}
