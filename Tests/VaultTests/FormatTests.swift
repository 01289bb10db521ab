import Core
import Testing

@testable import Vault

@Suite("Format")
struct FormatTests {
  @Test func `polynomials are irreducible exactly if nothing divides them`() {
    for f in UInt64(2)..<1024 {
      let divides = (2..<f).contains { d in
        var rest = f
        while rest != 0, rest.leadingZeroBitCount <= d.leadingZeroBitCount {
          rest ^= d << UInt64(d.leadingZeroBitCount - rest.leadingZeroBitCount)
        }
        return rest == 0
      }
      #expect(IrreduciblePolynomial.isIrreducible(f) == !divides, "\(f)")
    }
    // restic's own test polynomial.
    #expect(IrreduciblePolynomial.isIrreducible(0x3DA3_358B_4DC1_73))
    #expect(!IrreduciblePolynomial.isIrreducible(0) && !IrreduciblePolynomial.isIrreducible(1))
    let random = IrreduciblePolynomial.random(SeededRandomness(seed: 4))
    #expect(random >> 53 == 1)
  }

  @Test func `JSON escapes mean what they mean to Go`() throws {
    func read(_ text: String) throws(JSONFault) -> String {
      try JSONScanner.scan(Array(text.utf8)) { (scanner) throws(JSONFault) in try scanner.string() }
    }
    #expect(try read(#""a\"\\\/\b\f\n\r\tb""#) == "a\"\\/\u{8}\u{c}\n\r\tb")
    #expect(try read(#""\u003c\u00e9\ud83d\ude00""#) == "<é😀")
    #expect(try read(#""\ud83d x \ude00""#) == "\u{fffd} x \u{fffd}")
    for bad in [#""\x""#, #""\u12""#, #""\"#, "\"a", "\"\u{1}\"", #""a" 1"#] {
      #expect(throws: JSONFault.self, "\(bad)") { _ = try read(bad) }
    }
    var output = JSONOutput()
    output.string("<a>&\"\\\u{1}\n\u{2028}é😀")
    let written = String(decoding: output.bytes, as: UTF8.self)
    #expect(written == #""\u003ca\u003e\u0026\"\\\u0001\n\u2028é😀""#)
    #expect(try read(written) == "<a>&\"\\\u{1}\n\u{2028}é😀")
  }

  @Test func `JSON nested without end is a fault, not a crash`() {
    for text in [String(repeating: "[", count: 100_000), String(repeating: "{\"a\":", count: 100_000)] {
      #expect(throws: JSONFault.self) {
        _ = try JSONScanner.scan(Array(text.utf8)) { (scanner) throws(JSONFault) in try scanner.value() }
      }
    }
  }

  @Test func `base64 goes there and back`() {
    for count in 0..<50 {
      let bytes = SeededRandomness(seed: UInt64(count)).bytes(count)
      var text: [UInt8] = []
      bytes.withUnsafeBytes { Base64Text.encode($0, into: &text) }
      #expect(text.withUnsafeBytes { Base64Text.decode($0) } == bytes)
    }
    for bad in ["A", "AA", "AAA", "A===", "AA=A", "====", "AA==AAAA", "A A="] {
      #expect(Array(bad.utf8).withUnsafeBytes { Base64Text.decode($0) } == nil, "\(bad)")
    }
  }

  @Test func `a snapshot keeps members it has no name for`() throws {
    let tree = Digest.of("t")
    let text = """
      {"time":"2026-11-21T09:00:00.5+01:00","tree":"\(tree.hex)","paths":["/a<b>"],"hostname":"h","uid":1000,\
      "program_version":"restic 0.17.0","summary":{"files_new":3,"ratio":1.5,"deep":[null,true]}}
      """
    let snapshot = try Snapshot(json: Array(text.utf8), id: tree)
    #expect(snapshot.time == Timestamp("2026-11-21T08:00:00.5Z") && snapshot.userID == 1000)
    #expect(snapshot.other["summary"]?["files_new"] == 3)
    #expect(try Snapshot(json: snapshot.json(), id: tree) == snapshot)
  }

  @Test func `an index of many blobs finds each and nothing else`() {
    var index = BlobIndex(seed: 7)
    var all: [(Digest, PackedBlob)] = []
    for pack in 0..<50 {
      let id = Digest.of("pack \(pack)")
      let blobs = (0..<400).map { number in
        PackedBlob(
          kind: number % 5 == 0 ? .tree : .data, id: Digest.of("\(pack) \(number)"), offset: number * 100, length: 100,
          uncompressedBytes: number % 2 * 500)
      }
      index.add(pack: id, blobs[...])
      index.add(pack: id, blobs[...])
      all += blobs.map { (id, $0) }
    }
    for (pack, blob) in all {
      #expect(index.place(blob.kind, blob.id) == BlobIndex.Place(pack: pack, blob: blob))
      #expect(!index.contains(blob.kind == .data ? .tree : .data, blob.id))
      #expect(index.otherPlaces(blob.kind, blob.id).isEmpty)
    }
    #expect(index.count(.data) == 16_000 && index.count(.tree) == 4_000)
    #expect(!index.contains(.data, Digest.of("absent")))
  }

  @Test func `scrypt is RFC 7914's`() throws {
    // Section 12, second vector.
    let key = try scrypt(Secret("password"), salt: Array("NaCl".utf8), ScryptParameters(n: 1024, r: 8, p: 16))
    #expect(
      key.encryption.withBytes { Hex.encode($0) } == "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
    for bad in [
      (0, 8, 1), (3, 8, 1), (1 << 40, 8, 1), (1024, 0, 1), (1024, 8, 0), (1 << 20, 1024, 1), (1024, 1, 1 << 40),
    ] {
      #expect(throws: VaultError.self) {
        _ = try scrypt(Secret("x"), salt: [], ScryptParameters(n: bad.0, r: bad.1, p: bad.2))
      }
    }
  }

  @Test func `lanes side by side derive what one after another does`() throws {
    let random = SeededRandomness(seed: 31)
    for (n, r, p) in [
      (2, 1, 1), (2, 3, 4), (16, 8, 2), (64, 5, 3), (1024, 8, 7), (4096, 1, 5), (128, 32, 6), (256, 4, 9),
    ] {
      let (password, salt) = (Secret(Hex.encode(random.bytes(random.below(40)))), random.bytes(random.below(70)))
      let parameters = ScryptParameters(n: n, r: r, p: p)
      let expected = try scrypt(password, salt: salt, parameters, vectorBits: 0)
      for threads in 1...3 {
        for bits in [128, 256, 512] {
          let found = try scrypt(password, salt: salt, parameters, threads: threads, vectorBits: bits)
          #expect(found.json() == expected.json(), "N=\(n) r=\(r) p=\(p), \(threads) threads, \(bits) bits")
        }
      }
    }
  }

  @Test func `what was sealed opens, and one changed bit anywhere is noticed`() throws {
    let cipher = try Cipher(MasterKey(from: SeededRandomness(seed: 1)))
    for size in [0, 1, 15, 16, 17, 1000] {
      let plain = SeededRandomness(seed: UInt64(size)).bytes(size)
      let sealed = try plain.withUnsafeBytes { try cipher.seal($0, iv: SeededRandomness(seed: 2).bytes(16)) }
      #expect(sealed.count == size + 32)
      #expect(try sealed.withUnsafeBytes { try cipher.open($0) } == plain)
      for bit in stride(from: 0, to: sealed.count * 8, by: 7) {
        var changed = sealed
        changed[bit / 8] ^= 1 << UInt8(bit % 8)
        #expect(try changed.withUnsafeBytes { try cipher.open($0) } == nil)
      }
    }
    #expect(try [UInt8](repeating: 0, count: 31).withUnsafeBytes { try cipher.open($0) } == nil)
  }
}
