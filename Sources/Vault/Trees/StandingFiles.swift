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
  /// Large files, and how much of those that are being read is known to be right so far.
  private var sliced: [(index: Int, entry: StandingEntry)] = []
  private var seenBytes: Int64 = 0

  /// Reads every file of the plan that is there, and changes nothing.
  ///
  /// Large files are read in slices, side by side: one file may be nearly all there is.
  ///
  /// - Throws: If something that is no directory stands where the snapshot has one, a symbolic link included.
  static func find(
    _ plan: RestorePlan, _ existing: RestoreOptions.Existing, _ target: TreeTarget, _ options: RestoreOptions,
    _ pool: BlockingPool, _ length: @escaping @Sendable (BlobID) -> Int?
  ) async throws -> StandingFiles {
    let (parallel, sliceBytes, progress) = (options.parallel, options.sliceBytes, options.progress)
    let result = Mutex(StandingFiles(plan, existing))
    let names = furtherNames(plan)
    try await inPool(pieces(plan), parallel, pool) { (piece) throws(SystemFailure) in
      let place: TargetDirectory
      do throws(SystemFailure) { place = try target.directory(plan.directories[piece.directory].path) } catch {
        guard error.number == ENOENT else { throw error }
        return
      }
      for index in piece.files {
        let found = try look(at: index, plan, existing, place, names[index] ?? [], target)
        guard case .inPlace(let entry, let isTrusted) = found else {
          result.withLock { $0.note(index, found.file, plan) }
          continue
        }
        let file = plan.files[index]
        if !isTrusted, file.size >= 2 * sliceBytes {
          result.withLock { $0.sliced.append((index, entry)) }
          continue
        }
        let standing = StandingParts(in: file, entry, place)
        let blobs = StandingParts.Blob.all(of: file, 0..<file.content.count, from: 0, length)
        let parts =
          isTrusted
          ? blobs.filter { $0.end <= entry.size }.map { StandingParts.Part(start: $0.start, bytes: $0.bytes) }
          : standing.compared(blobs)
        let checked = standing.checked(parts)
        let done = result.withLock { result in
          result.note(index, entry, checked, plan)
          return result.keptBytes
        }
        if !blobs.isEmpty { progress(done) }
      }
    }
    try Task.checkCancellation()
    let sliced = result.withLock { $0.sliced }
    var slices: [Slice] = []
    for (number, (index, _)) in sliced.enumerated() {
      let own = Self.slices(of: plan.files[index], sliceBytes, length)
      slices += own.map { Slice(file: number, blobs: $0.blobs, start: $0.start, count: own.count) }
    }
    let underWay = Mutex([[Int: StandingParts.Parts?]](repeating: [:], count: sliced.count))
    try await inPool(slices, parallel, pool) { (slice) throws(SystemFailure) in
      let (index, entry) = sliced[slice.file]
      let file = plan.files[index]
      let place = try target.directory(plan.directories[file.directory].path)
      let standing = StandingParts(in: file, entry, place)
      let found = standing.compared(StandingParts.Blob.all(of: file, slice.blobs, from: slice.start, length))
      let bytes = (found ?? []).reduce(0) { $0 + Int64($1.bytes) }
      let whole = underWay.withLock { underWay -> [Int: StandingParts.Parts?]? in
        underWay[slice.file].updateValue(found, forKey: slice.blobs.lowerBound)
        guard underWay[slice.file].count == slice.count else { return nil }
        defer { underWay[slice.file] = [:] }
        return underWay[slice.file]
      }
      var finished: (parts: StandingParts.Parts?, bytes: Int64)?
      if let whole {
        // The last slice of the file; one that could not be read makes the whole of no use.
        let slices = whole.sorted { $0.key < $1.key }.map(\.value)
        let found = slices.flatMap { $0 ?? [] }
        let parts = standing.checked(slices.contains { $0 == nil } ? nil : found)
        finished = (parts, found.reduce(0) { $0 + Int64($1.bytes) })
      }
      let done = result.withLock { [finished] result in
        result.seenBytes += bytes
        if let finished {
          result.note(index, entry, finished.parts, plan)
          result.seenBytes -= finished.bytes
        }
        return result.keptBytes + result.seenBytes
      }
      progress(done)
    }
    try Task.checkCancellation()
    return result.withLock { $0 }
  }

  private static func inPool<Item: Sendable>(
    _ items: [Item], _ parallel: Int, _ pool: BlockingPool,
    _ body: @escaping @Sendable (Item) throws(SystemFailure) -> Void
  ) async throws {
    do throws(VaultError) {
      try await inParallel(items, limit: parallel) { (item) throws(VaultError) in
        do throws(SystemFailure) {
          try await pool.run { () throws(SystemFailure) in try body(item) }
        } catch { throw .outside(AnyFailure(error)) }
      }
    } catch {
      if case .outside(let failure) = error { throw failure.underlying }
      throw error
    }
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

  private struct Slice {
    /// Among those that are sliced.
    var file: Int
    var blobs: Range<Int>
    var start: Int64
    /// Of the file.
    var count: Int
  }

  private static func slices(
    of file: RestorePlan.File, _ sliceBytes: Int64, _ length: (BlobID) -> Int?
  ) -> [(blobs: Range<Int>, start: Int64)] {
    let count = file.content.count
    if let bytes = file.blobBytes {
      let each = max(1, Int(sliceBytes) / max(1, bytes))
      return stride(from: 0, to: count, by: each).map {
        ($0..<min(count, $0 + each), Int64($0) * Int64(bytes))
      }
    }
    var result: [(blobs: Range<Int>, start: Int64)] = []
    var (first, start, end) = (0, Int64(0), Int64(0))
    for index in 0..<count {
      end += Int64(length(file.content[index]) ?? 0)
      guard end - start >= sliceBytes || index == count - 1 else { continue }
      result.append((first..<index + 1, start))
      (first, start) = (index + 1, end)
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
    plan.places = plan.places.compactMapValues { places in
      let wanted = places.filter { place in
        switch files[place.file] {
        case .absent, .inTheWay: true
        case .left: false
        case .inPlace: !Self.contains(kept[place.file] ?? [], place.offset)
        }
      }
      return wanted.isEmpty ? nil : wanted
    }
  }

  // MARK: Looking

  private mutating func note(_ index: Int, _ file: File, _ plan: RestorePlan) {
    files[index] = file
    guard case .left = file else { return }
    leftFiles += 1
    leftBytes += plan.files[index].size
  }

  /// - Parameter parts: `nil` if what stands there is of no use.
  private mutating func note(
    _ index: Int, _ entry: StandingEntry, _ parts: StandingParts.Parts?, _ plan: RestorePlan
  ) {
    guard let parts else { return note(index, .inTheWay, plan) }
    files[index] = .inPlace(entry)
    kept[index] = parts.map(\.start)
    keptBytes += parts.reduce(0) { $0 + Int64($1.bytes) }
    if parts.count == plan.files[index].content.count { whole.insert(index) }
  }

  private enum Found {
    case absent, inTheWay, left
    /// With whether its content is taken for right.
    case inPlace(StandingEntry, isTrusted: Bool)

    var file: File {
      switch self {
      case .absent: .absent
      case .inTheWay: .inTheWay
      case .left: .left
      case .inPlace(let entry, _): .inPlace(entry)
      }
    }
  }

  private static func look(
    at index: Int, _ plan: RestorePlan, _ existing: RestoreOptions.Existing, _ place: TargetDirectory,
    _ names: [(directory: Int, name: FileName)], _ target: TreeTarget
  ) throws(SystemFailure) -> Found {
    let file = plan.files[index]
    guard let entry = try place.standing(file.name) else { return .absent }
    if isLeft(entry, file.metadata, existing) { return .left }
    // Making it will fail, and say so: a directory holds what nobody spoke of.
    if entry.isDirectory { return .absent }
    guard entry.isRegular, try entry.links == 1 + count(names, of: entry, plan, target) else { return .inTheWay }
    return .inPlace(
      entry,
      isTrusted: existing == .ifChanged && entry.size == file.size && entry.modified == file.metadata.modified)
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

/// What of a standing file is as in the snapshot. Calls block.
private struct StandingParts {
  struct Blob: Sendable {
    var id: BlobID
    var start: Int64
    var bytes: Int

    var end: Int64 { start + Int64(bytes) }

    /// - Parameter start: Where the first of them begins.
    static func all(
      of file: RestorePlan.File, _ range: Range<Int>, from start: Int64, _ length: (BlobID) -> Int?
    ) -> [Blob] {
      var start = start
      return range.map { index in
        let id = file.content[index]
        let bytes =
          file.blobBytes.map { Int(min(Int64($0), max(0, file.size - start))) } ?? length(id) ?? 0
        defer { start += Int64(bytes) }
        return Blob(id: id, start: start, bytes: bytes)
      }
    }
  }

  /// Those that are right, ascending.
  typealias Parts = [Part]

  struct Part: Sendable {
    var start: Int64
    var bytes: Int
  }

  private let file: RestorePlan.File
  private let entry: StandingEntry
  private let place: TargetDirectory

  init(in file: RestorePlan.File, _ entry: StandingEntry, _ place: TargetDirectory) {
    (self.file, self.entry, self.place) = (file, entry, place)
  }

  /// What can't be read or written as it is can still be replaced.
  ///
  /// - Returns: `nil` if it has to be.
  func checked(_ parts: Parts?) -> Parts? {
    guard let parts else { return nil }
    do throws(SystemFailure) {
      let handle = try place.openStanding(file.name, entry)
      // A program that runs can't be written; it goes on with the file that it has.
      if parts.count < file.content.count || entry.size != file.size { try handle.checkIdle() }
    } catch { return nil }
    return parts
  }

  /// Reads some of the blobs' places, and compares what is there by its hash: two at a time, in little enough memory to stay
  /// near the processor.
  ///
  /// - Returns: `nil` if it can't be read.
  func compared(_ blobs: [Blob]) -> Parts? {
    var parts: Parts = []
    let space = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.spaceBytes, alignment: 4096)
    defer { space.deallocate() }
    do throws(SystemFailure) {
      let file = try place.openStanding(file.name, entry)
      var index = 0
      while index < blobs.count, blobs[index].end <= entry.size {
        var end = index
        while end < blobs.count, blobs[end].end <= entry.size,
          blobs[end].end - blobs[index].start <= Int64(space.count)
        {
          end += 1
        }
        if end > index {
          try compare(blobs[index..<end], file, space, &parts)
          index = end
        } else {
          let count = index + 1 < blobs.count && blobs[index + 1].end <= entry.size ? 2 : 1
          try compareLarge(blobs[index..<index + count], file, space, &parts)
          index += count
        }
      }
    } catch { return nil }
    return parts
  }

  private static let spaceBytes = 512 << 10

  /// Blobs that fit into memory together.
  private func compare(
    _ blobs: ArraySlice<Blob>, _ file: File, _ space: UnsafeMutableRawBufferPointer, _ parts: inout Parts
  ) throws(SystemFailure) {
    let first = blobs[blobs.startIndex].start
    let wanted = UnsafeMutableRawBufferPointer(rebasing: space[..<Int(blobs[blobs.endIndex - 1].end - first)])
    let end = first + Int64(try file.read(at: first, into: wanted))
    func bytes(_ blob: Blob) -> UnsafeRawBufferPointer {
      let offset = Int(blob.start - first)
      return UnsafeRawBufferPointer(rebasing: wanted[offset..<offset + blob.bytes])
    }
    var left = blobs
    while let a = left.popFirst() {
      guard let b = left.popFirst() else {
        take(a, PairedDigest.of(bytes(a)), end, &parts)
        break
      }
      let digests = PairedDigest.of(bytes(a), bytes(b))
      take(a, digests.0, end, &parts)
      take(b, digests.1, end, &parts)
    }
  }

  /// One or two, in pieces.
  private func compareLarge(
    _ blobs: ArraySlice<Blob>, _ file: File, _ space: UnsafeMutableRawBufferPointer, _ parts: inout Parts
  ) throws(SystemFailure) {
    let half = space.count / 2
    var digests = (PairedDigest(), PairedDigest())
    func piece(_ blob: Blob?, _ done: inout Int, _ number: Int) throws(SystemFailure) -> UnsafeRawBufferPointer {
      guard let blob, done < blob.bytes else { return UnsafeRawBufferPointer(start: nil, count: 0) }
      let start = number * half
      let place = UnsafeMutableRawBufferPointer(rebasing: space[start..<start + min(half, blob.bytes - done)])
      let count = try file.read(at: blob.start + Int64(done), into: place)
      done += count
      return UnsafeRawBufferPointer(rebasing: place[..<count])
    }
    let (a, b) = (blobs.first, blobs.dropFirst().first)
    var done = (0, 0)
    while true {
      let (x, y) = (try piece(a, &done.0, 0), try piece(b, &done.1, 1))
      if x.isEmpty, y.isEmpty { break }
      PairedDigest.add(x, to: &digests.0, y, to: &digests.1)
    }
    if let a { take(a, digests.0.finish(), a.start + Int64(done.0), &parts) }
    if let b { take(b, digests.1.finish(), b.start + Int64(done.1), &parts) }
  }

  /// - Parameter end: Up to where the file could be read.
  private func take(_ blob: Blob, _ digest: Digest, _ end: Int64, _ parts: inout Parts) {
    if digest == blob.id, blob.end <= end { parts.append(Part(start: blob.start, bytes: blob.bytes)) }
  }
}

extension File {
  /// - Throws: `ETXTBSY` for a program that runs. Rights can be had, by its owner.
  fileprivate func checkIdle() throws(SystemFailure) {
    do throws(SystemFailure) { _ = try File("/proc/self/fd/\(descriptor)", O_WRONLY) } catch {
      if error.number == ETXTBSY { throw error }
    }
  }
}
