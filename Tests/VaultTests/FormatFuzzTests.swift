import Core
import Foundation
import Testing

@testable import Vault

/// Every format the vault reads, fuzzed from valid inputs, odd ones, and nonsense: `SALVOR_FUZZ` (rounds, 1) from
/// `SALVOR_SEED` on.
///
/// A parser ends with a value or an error of its own, soon, and with little memory; what it takes, its encoder writes so
/// that it is read again as the same.
@Suite("Fuzzing of every format", .serialized)
struct FormatFuzzTests {
  struct Format: Sendable, CustomTestStringConvertible {
    var name: String
    var corpus: [[UInt8]]
    /// Reads, and writes again.
    var again: @Sendable ([UInt8]) throws -> [UInt8]
    var testDescription: String { name }
  }

  private static let id = Digest.of("id")
  private static let base = 6000
  private static func number(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }

  private static func text(_ strings: String...) -> [[UInt8]] { strings.map { Array($0.utf8) } }

  private static func node(_ fields: String) -> String {
    let zero = #""mtime":"2020-01-01T00:00:00Z","atime":"2020-01-01T00:00:00Z","ctime":"2020-01-01T00:00:00Z""#
    return #"{"nodes":[{"name":"a","type":"file","mode":420,\#(zero),"uid":0,"gid":0,\#(fields)}]}"#
  }

  static let formats: [Format] = {
    let hex = id.hex
    let blobs = (0..<6).map { number in
      PackedBlob(
        kind: number == 0 ? .tree : .data, id: Digest.of("\(number)"), offset: number * 100, length: 100,
        uncompressedBytes: number % 2 * 77)
    }
    let packs = (0..<3).map { IndexedPack(id: Digest.of("pack \($0)"), blobs: blobs) }
    let snapshot = Snapshot(
      time: Timestamp(seconds: 5), tree: id, paths: ["/a", "/b"], hostname: "host", userID: 7, parent: id, tags: ["x"],
      other: ["summary": ["files": .integer(3)]])
    let lock = LockFile(
      time: Timestamp(seconds: 9), isExclusive: true, hostname: "h", username: "u", processID: 3, userID: 1, groupID: 1)
    let owner = Owner(hostname: "h", username: "u", processID: 1, isAlive: { _ in true })
    let key = try? KeyFile.wrap(
      MasterKey(from: SeededRandomness(seed: 1)), password: password, parameters: ScryptParameters(n: 2, r: 1, p: 1),
      owner: owner, now: Timestamp(seconds: 1), randomness: SeededRandomness(seed: 2))
    let listed = (0..<3).map { ObjectInfo(ObjectName(.data, Digest.of("\($0)")), sizeBytes: $0 * 1000) }
    return [
      Format(
        name: "pack header",
        corpus: [
          PackHeader.encode(blobs), PackHeader.encode([blobs[0]]), [UInt8](repeating: 0xff, count: 41), [],
          // Types 2 and 3 with an uncompressed length of 0.
          [2, 100, 0, 0, 0, 0, 0, 0, 0] + id.bytes, [3, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0] + id.bytes,
        ],
        again: { bytes in PackHeader.encode(try PackHeader.decode(bytes).get()) }),
      Format(
        name: "index",
        corpus: [IndexFile.encode(packs), IndexFile.encode([])]
          + text(
            #"{"supersedes":["\#(hex)"],"packs":[{"id":"\#(hex)","blobs":[]}]}"#, #"{"packs":[],"packs":[]}"#,
            #"{"packs":[{"id":"\#(hex)","blobs":[{"id":"\#(hex)","type":"data","offset":2147483647,"length":2147483647}]}]}"#
          ),
        again: { bytes in
          var packs: [IndexedPack] = []
          var index = BlobIndex(seed: 1)
          try IndexFile.decode(bytes) { (pack, blobs) throws(JSONFault) in
            packs.append(IndexedPack(id: pack, blobs: blobs))
            index.add(pack: pack, blobs[...])
          }
          _ = index.blobsByPack()
          return IndexFile.encode(packs)
        }),
      Format(
        name: "tree",
        corpus: [HandTree.json([("f", 3, [id, id]), ("g", 0, [])], directories: [("d", id)])]
          + text(
            #"{"nodes":[]}"#, #"{"nodes":null}"#, node(#""content":null"#), node(#""size":18446744073709551615"#),
            node(#""user":"\ud800","group":"\udc00\ud800""#), node(#""links":3,"inode":18446744073709551615"#),
            node(#""extended_attributes":[{"name":"user.a","value":"AAEC"},{"name":"user.b","value":null}]"#),
            node(#""generic_attributes":{"windows.creation_time":"2020","x":{"y":[1,2,{"z":null}]}}"#),
            node(#""error":"\\u0000 \u2028 <&>""#),
            #"{"nodes":[{"name":"\\xff\\n\\u2028\\\\","type":"symlink","mode":134218239,"linktarget":"\u00ff","linktarget_raw":"/w=="}]}"#,
            #"{"nodes":[{"name":"dev","type":"chardev","mode":69206016,"device":4294967295}]}"#,
            #"{"nodes":[{"name":"..","type":"file"}]}"#, #"{"nodes":[{"name":"a/b","type":"file"}]}"#),
        again: { bytes in
          _ = try? TreeReferences(json: bytes)
          return TreeEncoder.encode(try TreeParser.parse(bytes))
        }),
      Format(
        name: "snapshot",
        corpus: [snapshot.json()]
          + text(
            #"{"time":"2020-02-30T00:00:00Z","tree":"\#(hex)","paths":null}"#,
            #"{"time":"9999-12-31T23:59:59.999999999-23:59","tree":"\#(hex)","paths":["\ud800"],"uid":4294967295}"#,
            #"{"time":"0000-01-01T00:00:00+14:00","tree":"\#(hex)","paths":[],"x":1e308,"y":-0.0,"z":1e-320}"#),
        again: { try Snapshot(json: $0, id: id).json() }),
      Format(
        name: "config",
        corpus: [RepositoryConfig(version: 2, id: id, chunkerPolynomial: 0x3D_A335_8B4D_C173).json()]
          + text(#"{"version":3,"id":"\#(hex)","chunker_polynomial":"ffffffffffffffff"}"#),
        again: { try RepositoryConfig(json: $0).json() }),
      Format(
        name: "lock",
        corpus: [lock.json()]
          + text(#"{"time":"1969-12-31T23:59:59.5+01:00","exclusive":false,"hostname":"","pid":9223372036854775807}"#),
        again: { try LockFile(json: $0, id: id).json() }),
      Format(
        name: "key",
        corpus: [key?.json() ?? []]
          + text(
            #"{"kdf":"scrypt","N":9223372036854775807,"r":9223372036854775807,"p":1,"salt":"AAAAAAAAAAAAAAAA","data":"\#(String(repeating: "AAAA", count: 12))"}"#
          ),
        again: { bytes in
          let file = try KeyFile(json: bytes, id: id)
          _ = file.parameters.isAffordable
          return file.json()
        }),
      Format(
        name: "master key", corpus: [MasterKey(from: SeededRandomness(seed: 3)).json()],
        again: { try MasterKey(json: $0).json() }),
      Format(
        name: "REST listing, version 1", corpus: [ObjectListing.encodeNames(listed)] + text("[]", "null", #"["x"]"#),
        again: { bytes in
          ObjectListing.encodeNames(
            try ObjectListing.parseNames(bytes, .data).map { ObjectInfo($0, sizeBytes: 0) })
        }),
      Format(
        name: "REST listing, version 2",
        corpus: [ObjectListing.encode(listed)]
          + text("[]", "null", #"[{"name":"x","size":1}]"#, #"[{"name":"\#(hex)","size":9223372036854775807}]"#),
        again: { bytes in ObjectListing.encode(try ObjectListing.parse(bytes, .data)) }),
    ]
  }()

  /// Inputs that no mutation would come upon soon.
  private static let odd: [[UInt8]] = [
    [], [0], Array("\u{feff}{}".utf8), [0xff, 0xfe], Array(String(repeating: "[", count: 200_000).utf8),
    Array(String(repeating: "{\"nodes\":", count: 50_000).utf8),
    Array((#"{"nodes":[{"x":"# + String(repeating: "[", count: 100_000)).utf8),
    Array((#"{"packs":[{"blobs":["# + String(repeating: "{", count: 100_000)).utf8),
    Array(("{\"" + String(repeating: "a", count: 3_000_000) + "\":1}").utf8),
    Array((#"{"time":""# + String(repeating: "9", count: 1_000_000) + #"","tree":1}"#).utf8),
    Array(("[" + String(repeating: "0", count: 1_000_000) + "]").utf8),
    Array(("[" + String(repeating: "\"\\u00", count: 100_000)).utf8), [UInt8](repeating: 0x22, count: 100_001),
    [UInt8](repeating: 32, count: 1_000_000),
  ]

  private static let tokens: [String] = [
    "{", "}", "[", "]", ":", ",", "\"", "\\", "null", "true", "-", "0", "1e5", "18446744073709551616", "\\u0000",
    "\\ud83d", "\"nodes\":", "\"packs\":", "\"blobs\":", "\"id\":", "\"name\":", "\"type\":\"data\"", "\"tree\":",
    "\"time\":\"2020-01-01T00:00:00Z\"", "\"\(id.hex)\"", "\"size\":", "\"content\":", "\"version\":2", " ", "\n",
  ]

  private static func nonsense(_ chance: some Randomness) -> [UInt8] {
    if chance.chance(0.3) { return chance.bytes(chance.below(300)) }
    return Array((0..<chance.below(60)).map { _ in tokens[chance.below(tokens.count)] }.joined().utf8)
  }

  @Test(.timeLimit(.minutes(30)), arguments: formats)
  func `a parser takes what it can write, and refuses the rest at once`(_ format: Format) throws {
    let seed = Self.number("SALVOR_SEED") ?? 1
    let chance = SeededRandomness(seed: seed)
    let memory = Self.peakBytes()
    _ = try format.again(try #require(format.corpus.first))
    var (taken, refused) = (0, 0)
    func look(_ input: [UInt8], _ place: @autoclosure () -> String) {
      let start = ContinuousClock.now
      do {
        let once = try format.again(input)
        taken += 1
        do {
          let twice = try format.again(once)
          if twice != once {
            Issue.record(
              "\(format.name), \(place()): \(Self.show(input)) gave \(Self.show(once)), then \(Self.show(twice))")
          }
        } catch {
          Issue.record("\(format.name), \(place()): took \(Self.show(input)), not its own \(Self.show(once)): \(error)")
        }
      } catch {
        refused += 1
        #expect(
          error is JSONFault || error is VaultError || error is TreeError || error is StoreError || error is HeaderFault
        )
      }
      let time = ContinuousClock.now - start
      if time > .seconds(2) { Issue.record("\(format.name), \(place()): took \(time)") }
    }
    for (number, input) in (format.corpus + Self.odd).enumerated() { look(input, "corpus \(number)") }
    let rounds = Self.base * Int(Self.number("SALVOR_FUZZ") ?? 1)
    for round in 0..<rounds {
      let input =
        round % 8 == 7 ? Self.nonsense(chance) : mutated(format.corpus[chance.below(format.corpus.count)], chance)
      look(input, "round \(round), SALVOR_SEED=\(seed)")
    }
    #expect(taken > format.corpus.count / 4 && refused > rounds / 10, "\(taken) taken, \(refused) refused")
    #expect(Self.peakBytes() - memory < 400 << 20, "\(format.name) took \((Self.peakBytes() - memory) >> 20) MiB")
  }

  private static func show(_ bytes: [UInt8]) -> String { String(decoding: bytes.prefix(600), as: UTF8.self) }

  /// The most memory this process ever had.
  private static func peakBytes() -> Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_maxrss << 10
  }
}
