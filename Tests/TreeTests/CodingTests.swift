import Core
import IO
import Testing

@testable import Vault

@Suite("Coding of trees")
struct CodingTests {
  @Test func `ids are hexadecimal, in either case, and nothing else is one`() {
    let random = SeededRandomness(seed: 12)
    for _ in 0..<50 {
      let id = Digest.of(random.bytes(8))
      for hex in [id.hex, id.hex.uppercased()] {
        let text = Array("\"\(hex)\"".utf8)
        #expect(text.withUnsafeBytes { GoText.digest($0, at: 1) } == id)
        #expect(text.withUnsafeBytes { GoText.digest($0, at: 3) } == nil, "it is too short")
      }
    }
    for byte in UInt8.min...UInt8.max where !Character(Unicode.Scalar(byte)).isHexDigit || byte >= 0x80 {
      for position in [0, 7, 8, 63] {
        var text = Array(Digest.of([byte]).hex.utf8)
        text[position] = byte
        #expect(text.withUnsafeBytes { GoText.digest($0, at: 0) } == nil, "\(byte)")
      }
    }
  }

  /// Written out by hand after restic's own output.
  @Test func `a node is spelled as restic spells it`() throws {
    let id = try #require(Digest(hex: String(repeating: "ab", count: 32)))
    let node = TreeNode(
      name: FileName(bytes: Array("a\"\\<\n".utf8) + [0xff]),
      metadata: FileMetadata(
        kind: .regular, permissions: 0o4755, userID: 7, groupID: 8, userName: "u&", size: 5,
        modified: Timestamp(seconds: 1, nanoseconds: 500_000_000), accessed: Timestamp(seconds: -1),
        changed: Timestamp(seconds: 0), device: 3, inode: 4, links: 2,
        extendedAttributes: [ExtendedAttribute(name: "user.x", value: [1, 2, 3, 4])]), content: [id, id])
    let expected =
      #"{"nodes":[{"name":"a\\\"\\\\\u003c\\n\\xff","type":"file","mode":8389101,"mtime":"1970-01-01T00:00:01.5Z","#
      + #""atime":"1969-12-31T23:59:59Z","ctime":"1970-01-01T00:00:00Z","uid":7,"gid":8,"user":"u\u0026","inode":4,"#
      + #""device_id":3,"size":5,"links":2,"extended_attributes":[{"name":"user.x","value":"AQIDBA=="}],"#
      + #""content":["\#(id)","\#(id)"]}]}"# + "\n"
    #expect(String(decoding: TreeEncoder.encode([node]), as: UTF8.self) == expected)
    #expect(try TreeParser.parse(Array(expected.utf8)) == [node])
    #expect(TreeEncoder.encode([]) == Array("{\"nodes\":[]}\n".utf8))
  }

  @Test func `times with an offset, and far ones, are understood`() throws {
    func modified(_ text: String) throws -> Timestamp {
      try TreeParser.parse(Array(#"{"nodes":[{"name":"a","type":"fifo","mtime":"\#(text)"}]}"#.utf8))[0].metadata
        .modified
    }
    #expect(try modified("2026-11-21T10:00:00.25+02:00") == Timestamp("2026-11-21T08:00:00.25Z"))
    #expect(try modified("2026-11-21T10:00:00-00:30") == Timestamp("2026-11-21T10:30:00Z"))
    #expect(try modified("0000-01-01T00:00:00Z").nanoseconds == .min)
    #expect(try modified("9999-12-31T23:59:59.999999999Z").nanoseconds == .max)
  }

  @Test(arguments: [
    "", "{", "[]", "{}", #"{"nodes":[}"#, #"{"nodes":[{}]}"#, #"{"nodes":[]} x"#, #"{"nodes":[{"name":"a"}]}"#,
    #"{"nodes":[{"name":"..","type":"fifo"}]}"#, #"{"nodes":[{"name":".","type":"fifo"}]}"#,
    #"{"nodes":[{"name":"","type":"fifo"}]}"#, #"{"nodes":[{"name":"a/b","type":"fifo"}]}"#,
    #"{"nodes":[{"name":"\\x2e\\x2e","type":"fifo"}]}"#, #"{"nodes":[{"name":"a\\x00","type":"fifo"}]}"#,
    #"{"nodes":[{"name":"\\057etc","type":"fifo"}]}"#, #"{"nodes":[{"name":"a\\q","type":"fifo"}]}"#,
    #"{"nodes":[{"name":"a","type":"fifo"},{"name":"a","type":"fifo"}]}"#,
    #"{"nodes":[{"name":"a","type":"dir"}]}"#, #"{"nodes":[{"name":"a","type":"file","size":18446744073709551616}]}"#,
    #"{"nodes":[{"name":"a","type":"file","size":9223372036854775808}]}"#,
    #"{"nodes":[{"name":"a","type":"file","uid":4294967296}]}"#, #"{"nodes":[{"name":"a","type":"file","uid":-1}]}"#,
    #"{"nodes":[{"name":"a","type":"file","uid":1.5}]}"#, #"{"nodes":[{"name":"a","type":"file","content":["ab"]}]}"#,
    #"{"nodes":[{"name":"a","type":"file","mtime":"yesterday"}]}"#, #"{"nodes":[{"name":"a","type":"door"}]}"#,
    #"{"nodes":[{"name":"a","type":"symlink","linktarget_raw":"YQBi"}]}"#,
    #"{"x":"# + String(repeating: "[", count: 100_000),
  ])
  func `what is no tree is refused`(_ text: String) {
    #expect(throws: TreeError.self) { try TreeParser.parse(Array(text.utf8)) }
  }

  @Test func `unknown fields, spaces and any order are taken`() throws {
    let text =
      #" { "x" : [1,{"y":null}] , "nodes" : [ {"type":"fifo","later":{"a":[true]},"name":"b"} , {"name":"a","type":"socket"} ] } "#
    let nodes = try TreeParser.parse(Array(text.utf8))
    #expect(nodes.map(\.name) == ["a", "b"])
  }

  /// Any damage ends in an error or in nodes that encode and parse again to the same; never in a trap.
  @Test(arguments: TreeSeeds.all)
  func `damaged trees never trap`(_ seed: UInt64) throws {
    let random = SeededRandomness(seed: seed)
    let id = Digest.of("x")
    let nodes = (0..<4).map { index in
      TreeNode(
        name: FileName(bytes: Array("\(index)".utf8) + [UInt8](random.bytes(6).map { $0 == 0 || $0 == 47 ? 9 : $0 })),
        metadata: FileMetadata(
          kind: [.regular, .directory, .symbolicLink(target: [0xff]), .characterDevice(number: 9)][index],
          permissions: 0o1777, userName: "ü", size: 9,
          modified: Timestamp(nanoseconds: Int64(bitPattern: random.next())),
          links: index == 1 ? 0 : 1, extendedAttributes: [ExtendedAttribute(name: "user.a", value: random.bytes(5))]),
        content: index == 0 ? [id] : [], subtree: index == 1 ? id : nil)
    }
    let whole = TreeEncoder.encode(nodes)
    #expect(try TreeParser.parse(whole) == nodes)
    var survivors = 0
    for _ in 0..<2000 {
      var bytes = whole
      for _ in 0..<1 + random.below(3) {
        let place = random.below(bytes.count)
        switch random.below(5) {
        case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
        case 1: bytes[place] ^= 1 << UInt8(random.below(8))
        case 2: bytes.removeSubrange(place..<min(bytes.count, place + 1 + random.below(20)))
        case 3: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + random.below(40))], at: place)
        default: bytes = Array(bytes.prefix(place + 1))
        }
        if bytes.isEmpty { bytes = [0] }
      }
      guard let parsed = try? TreeParser.parse(bytes) else { continue }
      survivors += 1
      let again = TreeEncoder.encode(parsed)
      #expect(try TreeParser.parse(again) == parsed)
    }
    #expect(survivors > 0)
  }
}
