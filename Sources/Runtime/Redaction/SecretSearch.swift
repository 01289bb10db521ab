import Core
import DriverKit
import IO
import Redaction

#if canImport(Glibc)
  import Glibc
#endif

/// Looks for values in a delivered copy: in every byte of every file, in every name, and through the engines, which see through
/// their own compression.
package struct SecretSearch: Sendable {
  package struct Found: Sendable, Codable, Equatable, Hashable {
    /// The value's line in the list; never the value.
    package var line: Int
    package var place: String
    package var way: String
    package var offset: Int64?
  }

  package struct Outcome: Sendable, Codable, Equatable {
    package var values: Int
    package var files: Int
    package var bytes: Int64
    /// Stores that were read through their engines.
    package var stores: [String]
    package var found: [Found]
  }

  let host: Machine

  package init(_ host: Machine) { self.host = host }

  /// - Parameter list: A file with a value on each line.
  package func run(
    in directory: String, for list: String, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> Outcome {
    try await wrapped {
      let text = try await host.pool.run { () throws(SystemFailure) in
        String(decoding: try Files.read(list, limitBytes: 64 << 20), as: UTF8.self)
      }
      let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
      let scan = SecretScan(lines)
      guard !scan.spellings.isEmpty else { throw RedactionError.noNeedles(list) }
      let search = self
      var outcome = try await host.pool.run { () throws(AnyFailure) in
        do { return try search.bytes(of: directory, scan, progress) } catch { throw AnyFailure(error) }
      }
      outcome.values = lines.count { $0.utf8.count >= 4 }
      try await content(of: directory, scan, &outcome, progress)
      return outcome
    }
  }

  // MARK: Bytes

  private func bytes(of directory: String, _ scan: SecretScan, _ progress: (String) -> Void) throws -> Outcome {
    var outcome = Outcome(values: 0, files: 0, bytes: 0, stores: [], found: [])
    var open = [directory]
    while let path = open.popLast() {
      for name in try Files.names(in: path) {
        let place = "\(path)/\(name.lossyText)"
        add(scan.hits(in: name.bytes), "the name of \(place)", &outcome)
        var information = stat()
        guard lstat(place, &information) == 0 else { throw SystemFailure("lstat", path: place) }
        switch information.st_mode & S_IFMT {
        case S_IFDIR: open.append(place)
        case S_IFREG:
          progress("scan \(place)")
          try file(place, scan, &outcome)
        case S_IFLNK:
          var target = [UInt8](repeating: 0, count: 4096)
          let count = target.withUnsafeMutableBytes {
            readlink(place, $0.baseAddress!.assumingMemoryBound(to: CChar.self), 4096)
          }
          add(scan.hits(in: Array(target.prefix(max(0, count)))), "the target of \(place)", &outcome)
        default: break
        }
      }
    }
    return outcome
  }

  private func file(_ path: String, _ scan: SecretScan, _ outcome: inout Outcome) throws {
    let file = try File(path, O_RDONLY | O_NOFOLLOW)
    var run = SecretScan.Run(scan)
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = try buffer.withUnsafeMutableBytes { try file.read(into: $0) }
      if count == 0 { break }
      buffer.withUnsafeBytes { run.take(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
      outcome.bytes += Int64(count)
    }
    outcome.files += 1
    add(run.hits, path, &outcome)
  }

  private func add(_ hits: [SecretScan.Hit], _ place: String, _ outcome: inout Outcome) {
    var seen: Set<Found> = []
    for hit in hits {
      guard outcome.found.count < 10_000, seen.insert(Found(line: hit.value + 1, place: place, way: hit.way)).inserted
      else { continue }
      outcome.found.append(Found(line: hit.value + 1, place: place, way: hit.way, offset: hit.offset))
    }
  }

  // MARK: Content

  /// Reads the stores of a copy that says what it holds.
  private func content(
    of directory: String, _ scan: SecretScan, _ outcome: inout Outcome, _ progress: @escaping @Sendable (String) -> Void
  ) async throws {
    let path = "\(directory)/\(RedactedCopies.Delivered.name)"
    guard Files.exists(path) else { return }
    let delivered = try CanonicalJSON.decode(
      RedactedCopies.Delivered.self, from: Files.read(path, limitBytes: 64 << 20))
    for (name, store) in delivered.stores.sorted(by: { $0.key < $1.key }) {
      // Written by us, but by now anybody's.
      let options = store.count.role.map { ["user": JSONValue.string($0)] } ?? [:]
      guard !store.path.split(separator: "/").contains(".."), !store.path.hasPrefix("/"),
        let driver = try PrivateRestore.driver(
          name, store.driver, options, at: "\(directory)/\(store.path)", host: host),
        let rewriter = driver.rewriter()
      else { continue }
      progress("read \(name)")
      let found = ContentScan(scan)
      try await rewriter.read(limit: .max) { piece throws(AnyFailure) in found.take(piece) }
      for (place, hits) in found.hits.sorted(by: { $0.key < $1.key }) { add(hits, "\(name): \(place)", &outcome) }
      outcome.stores.append(name.text)
    }
  }
}

/// Hits by place; filled by one thread at a time.
private final class ContentScan: @unchecked Sendable {
  private let scan: SecretScan
  private(set) var hits: [String: [SecretScan.Hit]] = [:]

  init(_ scan: SecretScan) { self.scan = scan }

  private func look(_ bytes: [UInt8], _ place: @autoclosure () -> String) {
    let found = scan.hits(in: bytes)
    if !found.isEmpty { hits[place(), default: []] += found }
  }

  func take(_ piece: ContentPiece) {
    switch piece {
    case .schema(let text): look(Array(text.utf8), "schema")
    case .row(let values, let table):
      for (index, value) in values.enumerated() {
        let bytes: [UInt8] =
          switch value {
          case .null: []
          case .integer(let number): Array(String(number).utf8)
          case .real(let number): Array("\(number)".utf8)
          case .text(let text): Array(text.utf8)
          case .bytes(let bytes): bytes
          }
        look(bytes, "\(table.name).\(table.columns.filter { !$0.isGenerated }[index].name)")
      }
    case .entry(let name, let content):
      look(name, "the name of an entry")
      for bytes in Self.parts(content) { look(bytes, String(decoding: name, as: UTF8.self)) }
    }
  }

  private static func parts(_ content: EntryContent?) -> [[UInt8]] {
    switch content {
    case nil: []
    case .bytes(let bytes): [bytes]
    case .members(let members), .set(let members): members
    case .fields(let fields), .scored(let fields): fields.flatMap { [$0.name, $0.value] }
    case .stream(let messages): messages.flatMap { $0.fields.flatMap { [$0.name, $0.value] } }
    }
  }
}
