import Core
import IO

/// A list of entries that only grows, in files that whoever has them can check: tiles, entries, a signed checkpoint.
///
/// The order on disk is what makes a crash harmless. Entries and tiles become durable first; then `next`, the tree that is
/// about to be signed; only then is it signed and becomes the `checkpoint`. Files beyond the checkpoint may be anything,
/// and are written anew. Once there is a `next`, that very tree is signed and no other, whatever the caller brings: a
/// signature that nobody saw on disk may have left the machine all the same.
///
/// `docs/formats/evidence-log.md` describes the files. Every call blocks.
package struct TransparencyLog: Sendable {
  package static let checkpointPath = "checkpoint"
  static let nextPath = "next"
  /// Entries that become durable together; more take several checkpoints.
  package static let batchLimit = 4096

  package let files: any LogFiles
  package let origin: String
  package let keys: [NoteKey]

  /// - Parameter keys: Those that the log has ever been signed with.
  package init(_ files: any LogFiles, origin: String, keys: [NoteKey]) {
    (self.files, self.origin, self.keys) = (files, origin, keys)
  }

  // MARK: Reading

  /// The newest checkpoint, whose signatures fit; `nil` while there is none.
  package func checkpoint() throws(LogError) -> Checkpoint? {
    guard let bytes = try read(Self.checkpointPath, limitBytes: SignedNote.limitBytes) else { return nil }
    let checkpoint = try Checkpoint(bytes, trusting: keys)
    guard checkpoint.head.origin == origin else {
      throw .damaged(path: Self.checkpointPath, why: "it is of \(checkpoint.head.origin)")
    }
    return checkpoint
  }

  package func reader(of head: TreeHead) -> LogReader { LogReader(files, head: head) }

  func read(_ path: String, limitBytes: Int) throws(LogError) -> [UInt8]? {
    do throws(SystemFailure) { return try files.read(path, limitBytes: limitBytes) } catch { throw LogError(error) }
  }

  // MARK: Appending

  /// Finishes what a crash interrupted, then adds what `more` brings, until it brings nothing.
  ///
  /// - Parameters:
  ///   - signers: Those whose signatures new checkpoints get.
  ///   - more: Asked with the log as it stands; it has the lock meanwhile, so what it says can't be added twice.
  /// - Returns: The newest checkpoint; `nil` if there still is none.
  package func append(
    signedBy signers: [any NoteSigner], _ more: (LogReader) throws(LogError) -> [[UInt8]]
  ) throws(LogError) -> Checkpoint? {
    try files.alone { () throws(LogError) -> Checkpoint? in
      var current = try checkpoint()
      if let finished = try finish(current, signers) { current = finished }
      while true {
        let head = current?.head ?? .empty(origin)
        let reader = reader(of: head)
        try reader.requireRoot()
        let entries = try more(reader)
        guard !entries.isEmpty else { return current }
        var rest = entries[...]
        while !rest.isEmpty {
          let batch = Array(rest.prefix(Self.batchLimit))
          rest = rest.dropFirst(batch.count)
          current = try add(batch, to: current?.head ?? .empty(origin), signers)
        }
      }
    }
  }

  /// Signs the newest tree again, with other keys: both vouch for it then.
  package func sign(with signers: [any NoteSigner]) throws(LogError) -> Checkpoint? {
    try files.alone { () throws(LogError) -> Checkpoint? in
      let current = try checkpoint()
      if let finished = try finish(current, signers) { return finished }
      guard let current else { return nil }
      try reader(of: current.head).requireRoot()
      let checkpoint = try Checkpoint(current.head, signedBy: signers)
      try install(checkpoint)
      return checkpoint
    }
  }

  /// Puts a witness's signatures under the newest checkpoint.
  package func attach(_ signatures: [SignedNote.Signature], of witnesses: [NoteKey]) throws(LogError) -> Checkpoint {
    try files.alone { () throws(LogError) -> Checkpoint in
      guard var current = try checkpoint() else { throw .notLogged("anything") }
      let offered = SignedNote(text: current.note.text, signatures: signatures)
      try offered.verified(by: witnesses)
      for signature in signatures where !current.note.signatures.contains(signature) {
        current.note.signatures.removeAll { $0.name == signature.name && $0.keyID == signature.keyID }
        current.note.signatures.append(signature)
      }
      try install(current)
      return current
    }
  }

  /// Signs the tree that was about to be signed when a crash came.
  private func finish(_ current: Checkpoint?, _ signers: [any NoteSigner]) throws(LogError) -> Checkpoint? {
    guard let bytes = try read(Self.nextPath, limitBytes: 4096) else { return nil }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw .damaged(path: Self.nextPath, why: "it is no text")
    }
    let next = try TreeHead(text: text)
    let before = current?.head ?? .empty(origin)
    guard next.origin == origin else { throw .damaged(path: Self.nextPath, why: "it is of \(next.origin)") }
    guard next.size > before.size else {
      guard next.size < before.size || next.root == before.root else {
        throw .fork(origin: origin, oldSize: before.size, newSize: next.size)
      }
      try system { () throws(SystemFailure) in
        try files.remove(Self.nextPath)
        try files.synchronizeDirectory("")
      }
      return nil
    }
    let reader = reader(of: next)
    try reader.requireRoot()
    guard try reader.root(at: before.size) == before.root else {
      throw .fork(origin: origin, oldSize: before.size, newSize: next.size)
    }
    let checkpoint = try Checkpoint(next, signedBy: signers)
    try install(checkpoint)
    try tidy(from: before.size, to: next.size)
    return checkpoint
  }

  private func add(
    _ entries: [[UInt8]], to head: TreeHead, _ signers: [any NoteSigner]
  ) throws(LogError) -> Checkpoint {
    let size = head.size + Int64(entries.count)
    let old = reader(of: head)
    // Hashes by level: what the old tree has in its last tiles, and what comes.
    var fresh: [TileName: [UInt8]] = [:]
    for name in TileName.new(from: head.size, to: size) where name.level == nil {
      let first = name.index * 256
      let kept = first < head.size ? try old.entries(first..<head.size) : []
      let new = max(first, head.size)..<(first + Int64(name.width))
      fresh[name] = try EntryBundle.encode(
        kept + entries[Int(new.lowerBound - head.size)..<Int(new.upperBound - head.size)])
    }
    var below: [Digest] = entries.map(MerkleTree.leaf)
    for level in 0..<8 {
      let shift = Int64(8 * level)
      let (before, after) = (head.size >> shift, size >> shift)
      guard after > before else { break }
      let start = before / 256 * 256
      var hashes = before > start ? try old.hashes(level, start..<before) : []
      hashes += below
      for name in TileName.new(from: head.size, to: size) where name.level == level {
        let first = Int(name.index * 256 - start)
        fresh[name] = hashes[first..<first + name.width].flatMap(\.bytes)
      }
      below = stride(from: 0, to: hashes.count / 256 * 256, by: 256).map { LogReader.fold(hashes[$0..<$0 + 256]) }
    }
    try system { () throws(SystemFailure) in try write(fresh) }

    let next = reader(of: TreeHead(origin: origin, size: size, root: MerkleTree.empty))
    let tree = TreeHead(origin: origin, size: size, root: try next.root(at: size))
    // What was written is read again: what is signed is what is there.
    guard try next.root(at: head.size) == head.root else {
      throw .damaged(path: "tile", why: "it doesn't go on from the last checkpoint")
    }
    try replace(Self.nextPath, Array(tree.text.utf8))
    let checkpoint = try Checkpoint(tree, signedBy: signers)
    try install(checkpoint)
    try tidy(from: head.size, to: size)
    return checkpoint
  }

  private func write(_ fresh: [TileName: [UInt8]]) throws(SystemFailure) {
    var directories: Set<String> = []
    for (name, bytes) in fresh.sorted(by: { $0.key.description < $1.key.description }) {
      let path = name.description
      var directory = ""
      for part in path.split(separator: "/").dropLast() {
        let parent = directory
        directory += directory.isEmpty ? String(part) : "/\(part)"
        if directories.contains(directory) { continue }
        try files.makeDirectory(directory)
        directories.formUnion([parent, directory])
      }
      let temporary = "\(directory)/.new"
      try files.write(temporary, bytes)
      try files.synchronize(temporary)
      try files.rename(temporary, to: path)
    }
    for directory in directories.sorted() { try files.synchronizeDirectory(directory) }
  }

  private func install(_ checkpoint: Checkpoint) throws(LogError) {
    try replace(Self.checkpointPath, checkpoint.encoded)
    try system { () throws(SystemFailure) in
      try files.remove(Self.nextPath)
      try files.synchronizeDirectory("")
    }
  }

  private func replace(_ path: String, _ bytes: [UInt8]) throws(LogError) {
    try system { () throws(SystemFailure) in
      try files.write(".new-\(path)", bytes)
      try files.synchronize(".new-\(path)")
      try files.rename(".new-\(path)", to: path)
      try files.synchronizeDirectory("")
    }
  }

  /// Removes files of less than 256 where there is a whole one now.
  private func tidy(from old: Int64, to size: Int64) throws(LogError) {
    try system { () throws(SystemFailure) in
      for name in TileName.new(from: old, to: size) where name.isWhole {
        let directory = "\(name.wholePath).p"
        for file in try files.names(in: directory) { try files.remove("\(directory)/\(file)") }
      }
    }
  }

  private func system(_ body: () throws(SystemFailure) -> Void) throws(LogError) {
    do throws(SystemFailure) { try body() } catch { throw LogError(error) }
  }
}

/// A log up to one size, read from its files; nothing that doesn't lead to the root is given out.
package struct LogReader: Sendable {
  private let files: any LogFiles
  package let head: TreeHead

  package init(_ files: any LogFiles, head: TreeHead) { (self.files, self.head) = (files, head) }

  /// - Throws: ``LogError/damaged(path:why:)`` if the tiles at the tree's right edge don't lead to its root.
  package func requireRoot() throws(LogError) {
    guard try root(at: head.size) == head.root else {
      throw .damaged(path: "tile", why: "its hashes do not lead to the root of the checkpoint of \(head.size)")
    }
  }

  /// By the tiles, as they stand.
  package func root(at size: Int64) throws(LogError) -> Digest {
    try MerkleTree.root(of: size) { (level, index) throws(LogError) in try subtree(level, index) }
  }

  /// The proof, if it leads to the root.
  package func inclusion(of index: Int64) throws(LogError) -> [Digest] {
    let proof = try MerkleTree.inclusion(of: index, in: head.size) { (level, index) throws(LogError) in
      try subtree(level, index)
    }
    let leaf = MerkleTree.leaf(try entry(index))
    guard MerkleTree.root(from: leaf, at: index, in: head.size, proof) == head.root else {
      throw .damaged(path: "tile", why: "entry \(index) is not under the root of the checkpoint of \(head.size)")
    }
    return proof
  }

  package func consistency(from old: Int64) throws(LogError) -> [Digest] {
    try MerkleTree.consistency(from: old, to: head.size) { (level, index) throws(LogError) in
      try subtree(level, index)
    }
  }

  package func entry(_ index: Int64) throws(LogError) -> [UInt8] {
    guard index >= 0, index < head.size else { throw .outOfRange(index, size: head.size) }
    return try entries(index..<index + 1)[0]
  }

  /// Entries as they stand, each fitting its hash.
  package func entries(_ range: Range<Int64>) throws(LogError) -> [[UInt8]] {
    guard range.lowerBound >= 0, range.upperBound <= head.size else {
      throw .outOfRange(range.upperBound - 1, size: head.size)
    }
    guard !range.isEmpty else { return [] }
    var result: [[UInt8]] = []
    for index in range.lowerBound / 256...(range.upperBound - 1) / 256 {
      guard let name = TileName.at(nil, index, in: head.size) else { continue }
      let (bytes, found) = try load(name, limitBytes: 256 * (EntryBundle.entryLimitBytes + 2))
      guard let bundle = EntryBundle.decode(bytes, count: found.width) else {
        throw .damaged(path: found.description, why: "it does not have \(found.width) entries")
      }
      let first = index * 256
      let wanted = max(range.lowerBound, first)..<min(range.upperBound, first + Int64(name.width))
      let hashes = try hashes(0, wanted)
      for (place, hash) in zip(wanted, hashes) {
        let entry = bundle[Int(place - first)]
        guard MerkleTree.leaf(entry) == hash else {
          throw .damaged(path: found.description, why: "entry \(place) was changed")
        }
        result.append(entry)
      }
    }
    return result
  }

  /// Reads everything: every entry against its hash, every hash against those above, and those against the root.
  package func requireWhole() throws(LogError) {
    try requireRoot()
    var below: [Digest] = []
    for level in 0..<8 {
      let count = head.size >> Int64(8 * level)
      guard count > 0 else { break }
      let stored = try hashes(level, 0..<count)
      if level == 0 {
        for start in stride(from: Int64(0), to: count, by: 256) {
          _ = try entries(start..<min(count, start + 256))
        }
      } else {
        for index in 0..<Int(count) where Self.fold(below[index * 256..<index * 256 + 256]) != stored[index] {
          let name = TileName(level: level, index: Int64(index / 256), width: 256)
          throw .damaged(path: name.wholePath, why: "hash \(index) is not that of the tile below")
        }
      }
      below = stored
    }
  }

  /// Hashes `range` of a level, as the tiles have them.
  func hashes(_ level: Int, _ range: Range<Int64>) throws(LogError) -> [Digest] {
    guard !range.isEmpty else { return [] }
    var result: [Digest] = []
    for index in range.lowerBound / 256...(range.upperBound - 1) / 256 {
      guard let name = TileName.at(level, index, in: head.size) else {
        throw .outOfRange(index, size: head.size)
      }
      let (bytes, found) = try load(name, limitBytes: 256 * 32)
      guard bytes.count == found.width * 32 else {
        throw .damaged(path: found.description, why: "it does not have \(found.width) hashes")
      }
      let first = index * 256
      for place in max(range.lowerBound, first)..<min(range.upperBound, first + Int64(name.width)) {
        let start = Int(place - first) * 32
        if let digest = Digest(bytes: bytes[start..<start + 32]) { result.append(digest) }
      }
    }
    return result
  }

  /// The hash over 2^`level` leaves.
  private func subtree(_ level: Int, _ index: Int64) throws(LogError) -> Digest {
    let inTile = level % 8
    let first = index << Int64(inTile)
    return Self.fold(try hashes(level / 8, first..<first + (1 << Int64(inTile)))[...])
  }

  /// Of a power of two of hashes.
  static func fold(_ hashes: ArraySlice<Digest>) -> Digest {
    var level = Array(hashes)
    while level.count > 1 {
      level = stride(from: 0, to: level.count, by: 2).map { MerkleTree.node(level[$0], level[$0 + 1]) }
    }
    return level[0]
  }

  /// The file, or the whole one that has taken its place.
  private func load(_ name: TileName, limitBytes: Int) throws(LogError) -> (bytes: [UInt8], found: TileName) {
    do throws(SystemFailure) {
      if let bytes = try files.read(name.description, limitBytes: limitBytes) { return (bytes, name) }
      let whole = TileName(level: name.level, index: name.index)
      if !name.isWhole, let bytes = try files.read(whole.description, limitBytes: limitBytes) { return (bytes, whole) }
    } catch { throw LogError(error) }
    throw .damaged(path: name.description, why: "it is missing")
  }
}
