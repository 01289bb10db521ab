import Core
import IO
import Runbooks

/// A folder of runbooks: the edition that counts, and the one before it.
///
/// A new edition takes the old one's place in one step: whoever reads sees the one or the other, never some of both.
package struct RunbookFolder: Sendable {
  /// Where the edition before is kept.
  package static let previous = ".previous"
  /// In a folder that has just taken another's place, until that one was put away.
  private static let arriving = ".arriving"
  private static let limitBytes = 64 << 20

  private let path: String
  private let pool: BlockingPool

  package init(_ path: String, pool: BlockingPool) {
    var path = path
    while path.count > 1, path.hasSuffix("/") { path.removeLast() }
    (self.path, self.pool) = (path, pool)
  }

  private var beside: String { "\(Files.parent(of: path))/.\(Files.last(of: path))" }
  private var incoming: String { beside + ".new" }
  private var turning: String { beside + ".back" }

  // MARK: Reading

  /// - Returns: `nil` where there is none.
  package func edition() async throws(AnyFailure) -> Edition? {
    do {
      return try await pool.run {
        let file = "\(path)/\(Edition.factsFile)"
        guard try Files.isThere(file) else { return nil }
        do {
          return try CanonicalJSON.decode(Edition.self, from: try Files.read(file, limitBytes: Self.limitBytes))
        } catch { throw RunbookError.unreadable(file, why: AnyFailure(error).report.summary) }
      }
    } catch { throw AnyFailure(error) }
  }

  /// Every file of the folder, by its path in it; hidden ones aside.
  package func texts() async throws(AnyFailure) -> [String: String] {
    do {
      return try await pool.run {
        guard try Files.isThere(path) else { return [:] }
        var result: [String: String] = [:]
        try Self.collect(path, "", 0, &result)
        return result
      }
    } catch { throw AnyFailure(error) }
  }

  private static func collect(_ root: String, _ below: String, _ depth: Int, _ result: inout [String: String]) throws {
    guard depth < 3 else { return }
    for name in try Files.names(in: below.isEmpty ? root : "\(root)/\(below)") {
      let text = name.lossyText
      guard !text.hasPrefix(".") else { continue }
      let relative = below.isEmpty ? text : "\(below)/\(text)"
      if Files.isDirectory("\(root)/\(relative)") {
        try collect(root, relative, depth + 1, &result)
      } else {
        result[relative] = String(
          decoding: try Files.read("\(root)/\(relative)", limitBytes: limitBytes), as: UTF8.self)
      }
    }
  }

  /// What people wrote into the pages, by the page's name.
  package static func notes(_ texts: [String: String]) -> [String: Notes] {
    var result: [String: Notes] = [:]
    for (name, text) in texts where name.hasSuffix(".md") && !name.contains("/") {
      let notes = Notes(in: text)
      if !notes.isEmpty { result[String(name.dropLast(3))] = notes }
    }
    return result
  }

  // MARK: Writing

  /// Puts `files` in the place of what is there, which becomes the earlier edition.
  ///
  /// - Throws: ``RunbookError/occupied(_:_:)`` where the folder holds anything else.
  package func write(_ files: [String: String]) async throws(AnyFailure) {
    do {
      try await pool.run {
        try settle()
        try refuseOthers(files)
        try Files.createDirectory(incoming)
        for (name, text) in files.sorted(by: { $0.key < $1.key }) {
          let file = "\(incoming)/\(name)"
          try Files.createDirectory(Files.parent(of: file))
          try Files.replace(file, with: Array(text.utf8), mode: 0o644)
        }
        guard try Files.isThere(path) else {
          try Files.createDirectory(Files.parent(of: path))
          try Files.rename(incoming, to: path)
          return
        }
        try Files.replace("\(incoming)/\(Self.arriving)", with: [], mode: 0o600)
        try Files.synchronizeDirectory(incoming)
        try Files.exchange(incoming, path)
        try settle()
      }
    } catch { throw AnyFailure(error) }
  }

  /// Puts the edition before in the place of the one that is there, and keeps that one; so twice is as before.
  package func rollBack() async throws(AnyFailure) {
    do {
      try await pool.run {
        try settle()
        let kept = "\(path)/\(Self.previous)"
        guard try Files.isThere("\(kept)/\(Edition.factsFile)") else { throw RunbookError.noPrevious(path) }
        try Files.rename(kept, to: turning)
        try Files.exchange(turning, path)
        try settle()
      }
    } catch { throw AnyFailure(error) }
  }

  /// Ends what a killed process left half done.
  private func settle() throws {
    let kept = "\(path)/\(Self.previous)"
    if try Files.isThere("\(path)/\(Self.arriving)") {
      // The new one is in its place; what stands beside is the old one, unless it was put away already.
      if try Files.isThere(incoming) {
        try Files.removeTree("\(incoming)/\(Self.previous)")
        try Files.rename(incoming, to: kept)
      }
      try Files.removeTree("\(path)/\(Self.arriving)")
    } else if try Files.isThere(incoming) {
      try Files.removeTree(incoming)
    }
    if try Files.isThere(turning) {
      if try Files.isThere(kept) { try Files.removeTree(turning) } else { try Files.rename(turning, to: kept) }
    }
  }

  private func refuseOthers(_ files: [String: String]) throws {
    guard try Files.isThere(path) else { return }
    let names = try Files.names(in: path).map(\.lossyText)
    let file = "\(path)/\(Edition.factsFile)"
    var own: Set<String> = [Self.previous, Edition.factsFile, "pictures"]
    for name in files.keys { own.insert(String(name.split(separator: "/")[0])) }
    if try Files.isThere(file), let bytes = try? Files.read(file, limitBytes: Self.limitBytes),
      let edition = try? CanonicalJSON.decode(Edition.self, from: bytes)
    {
      own.formUnion(edition.files.keys.map { String($0.split(separator: "/")[0]) })
    } else if !names.isEmpty {
      throw RunbookError.occupied(path, names.sorted())
    }
    let others = names.filter { !own.contains($0) }.sorted()
    guard others.isEmpty else { throw RunbookError.occupied(path, others) }
  }
}
