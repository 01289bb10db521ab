import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// What stands in a restore's target already, and how much of it is as in the snapshot.
struct StandingFiles: Sendable {
  enum File: Hashable, Sendable {
    /// Nothing that could be of use.
    case absent
    /// Something that goes before the file is made: a link, a fifo, or a file with names that are none of the snapshot's,
    /// which keep their content.
    case inTheWay
    /// Its content is written over where it differs.
    case inPlace(StandingEntry)
    /// It stays as it is.
    case left

    var inPlace: StandingEntry? {
      if case .inPlace(let entry) = self { entry } else { nil }
    }
  }

  /// By the plan's numbers.
  private(set) var files: [File]
  /// Of files in place, where those of their blobs begin that are there.
  private var kept: [Int: [Int64]] = [:]
  private let existing: RestoreOptions.Existing
  private(set) var keptBytes: Int64 = 0
  private(set) var leftBytes: Int64 = 0
  private(set) var leftFiles: Int64 = 0
  /// Files that need no content.
  private var whole: Set<Int> = []

  /// Reads every file of the plan that is there, and changes nothing.
  ///
  /// - Throws: If something that is no directory stands where the snapshot has one, a symbolic link included.
  static func find(
    _ plan: RestorePlan, _ existing: RestoreOptions.Existing, _ target: TreeTarget, parallel: Int,
    _ pool: BlockingPool, _ length: @escaping @Sendable (BlobID) -> Int?,
    _ progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws -> StandingFiles {
    let result = Mutex(StandingFiles(plan, existing))
    let names = furtherNames(plan)
    do throws(VaultError) {
      try await inParallel(pieces(plan), limit: parallel) { (number, indices) throws(VaultError) in
        do throws(SystemFailure) {
          try await pool.run { () throws(SystemFailure) in
            let place: TargetDirectory
            do throws(SystemFailure) { place = try target.directory(plan.directories[number].path) } catch {
              guard error.number == ENOENT else { throw error }
              return
            }
            for index in indices {
              if Task.isCancelled { return }
              let (file, parts) = try look(at: index, plan, existing, place, names[index] ?? [], target, length)
              let done = result.withLock { result in
                result.note(index, file, parts, plan)
                return result.keptBytes
              }
              if !parts.isEmpty { progress(done) }
            }
          }
        } catch { throw .outside(AnyFailure(error)) }
      }
    } catch {
      if case .outside(let failure) = error { throw failure.underlying }
      throw error
    }
    try Task.checkCancellation()
    return result.withLock { $0 }
  }

  /// Every directory, in pieces of some files: one may hold nearly all there is.
  private static func pieces(_ plan: RestorePlan) -> [(directory: Int, files: Range<Int>)] {
    var result: [(directory: Int, files: Range<Int>)] = []
    for (number, directory) in plan.directories.enumerated() {
      var start = directory.files.lowerBound
      repeat {
        let end = min(start + 16, directory.files.upperBound)
        result.append((number, start..<end))
        start = end
      } while start < directory.files.upperBound
    }
    return result
  }

  private init(_ plan: RestorePlan, _ existing: RestoreOptions.Existing) {
    files = [File](repeating: .absent, count: plan.files.count)
    self.existing = existing
  }

  /// Whether the file is there and needs nothing but its metadata, and its end cut off perhaps.
  func isWhole(_ index: Int) -> Bool { whole.contains(index) }

  /// Whether something stays as it is, going by its time alone.
  func isLeft(_ entry: StandingEntry, _ metadata: FileMetadata) -> Bool {
    Self.isLeft(entry, metadata, existing)
  }

  /// Leaves in the plan what has to be written.
  func takeOut(of plan: inout RestorePlan) {
    for (id, places) in plan.places {
      let wanted = places.filter { place in
        switch files[place.file] {
        case .absent, .inTheWay: true
        case .left: false
        case .inPlace: !Self.contains(kept[place.file] ?? [], place.offset)
        }
      }
      if wanted.count < places.count { plan.places[id] = wanted.isEmpty ? nil : wanted }
    }
  }

  // MARK: Looking

  private mutating func note(_ index: Int, _ file: File, _ parts: [(start: Int64, bytes: Int)], _ plan: RestorePlan) {
    files[index] = file
    switch file {
    case .absent, .inTheWay: break
    case .left:
      leftFiles += 1
      leftBytes += plan.files[index].size
    case .inPlace:
      kept[index] = parts.map(\.start)
      keptBytes += parts.reduce(0) { $0 + Int64($1.bytes) }
      if parts.count == plan.files[index].content.count { whole.insert(index) }
    }
  }

  /// - Returns: What is there, and those of its parts that are as in the snapshot, ascending.
  private static func look(
    at index: Int, _ plan: RestorePlan, _ existing: RestoreOptions.Existing, _ place: TargetDirectory,
    _ names: [(directory: Int, name: FileName)], _ target: TreeTarget, _ length: (BlobID) -> Int?
  ) throws(SystemFailure) -> (File, [(start: Int64, bytes: Int)]) {
    let file = plan.files[index]
    guard let entry = try place.standing(file.name) else { return (.absent, []) }
    if isLeft(entry, file.metadata, existing) { return (.left, []) }
    // Making it will fail, and say so: a directory holds what nobody spoke of.
    if entry.isDirectory { return (.absent, []) }
    guard entry.isRegular, try entry.links == 1 + count(names, of: entry, plan, target) else { return (.inTheWay, []) }
    var parts: [(start: Int64, bytes: Int)] = []
    do throws(SystemFailure) {
      let isTrusted =
        existing == .ifChanged && entry.size == file.size && entry.modified == file.metadata.modified
      let handle = try place.openStanding(file.name, entry)
      var start: Int64 = 0
      for id in file.content {
        guard let bytes = length(id) else { continue }
        if start + Int64(bytes) <= entry.size {
          var isRight = isTrusted
          if !isRight { isRight = try handle.digest(of: bytes, at: start) == id }
          if isRight { parts.append((start, bytes)) }
        }
        start += Int64(bytes)
      }
      if parts.count < file.content.count || entry.size != file.size {
        // A program that runs can't be written; it goes on with the file that it has.
        try handle.checkIdle()
      }
      return (.inPlace(entry), parts)
    } catch {
      // What can't be read or written as it is can still be replaced.
      return (.inTheWay, [])
    }
  }

  private static func isLeft(
    _ entry: StandingEntry, _ metadata: FileMetadata, _ existing: RestoreOptions.Existing
  ) -> Bool {
    switch existing {
    case .always, .ifChanged: false
    case .ifNewer: !(entry.modified < metadata.modified)
    case .never: true
    }
  }

  /// How many of a file's further names in the snapshot are names of what stands there.
  private static func count(
    _ names: [(directory: Int, name: FileName)], of entry: StandingEntry, _ plan: RestorePlan, _ target: TreeTarget
  ) throws(SystemFailure) -> UInt64 {
    var count: UInt64 = 0
    guard entry.links > 1 else { return 0 }
    for (directory, name) in names {
      do throws(SystemFailure) {
        let place = try target.directory(plan.directories[directory].path)
        if try place.standing(name)?.isSameFile(entry) == true { count += 1 }
      } catch {
        guard error.number == ENOENT else { throw error }
      }
    }
    return count
  }

  private static func furtherNames(_ plan: RestorePlan) -> [Int: [(directory: Int, name: FileName)]] {
    var result: [Int: [(directory: Int, name: FileName)]] = [:]
    for (number, directory) in plan.directories.enumerated() {
      for other in plan.others[directory.others] {
        if case .file(let index)? = other.linkTo { result[index, default: []].append((number, other.name)) }
      }
    }
    return result
  }

  /// - Parameter starts: Ascending.
  private static func contains(_ starts: [Int64], _ offset: Int64) -> Bool {
    var (low, high) = (0, starts.count)
    while low < high {
      let middle = (low + high) >> 1
      if starts[middle] < offset { low = middle + 1 } else { high = middle }
    }
    return low < starts.count && starts[low] == offset
  }
}

extension File {
  /// The SHA-256 of a stretch of the file; read in pieces, for a blob may be large.
  fileprivate func digest(of count: Int, at offset: Int64) throws(SystemFailure) -> Digest? {
    let space = UnsafeMutableRawBufferPointer.allocate(byteCount: min(max(1, count), 1 << 20), alignment: 4096)
    defer { space.deallocate() }
    var digest = RunningDigest()
    var done = 0
    while done < count {
      let piece = UnsafeMutableRawBufferPointer(rebasing: space[..<min(space.count, count - done)])
      guard try read(at: offset + Int64(done), into: piece) == piece.count else { return nil }
      digest.update(UnsafeRawBufferPointer(piece))
      done += piece.count
    }
    return digest.finish()
  }

  /// - Throws: `ETXTBSY` for a program that runs. Rights can be had, by its owner.
  fileprivate func checkIdle() throws(SystemFailure) {
    do throws(SystemFailure) { _ = try File("/proc/self/fd/\(descriptor)", O_WRONLY) } catch {
      if error.number == ETXTBSY { throw error }
    }
  }
}
