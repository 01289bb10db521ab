import Core
import DriverKit
import Redaction
import Testing

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

@Suite struct ScanTests {
  private let secret = "Zacharias Quillfeather"

  private func ways(_ bytes: [UInt8], _ values: [String]? = nil) -> Set<String> {
    Set(SecretScan(values ?? [secret]).hits(in: bytes).map(\.way))
  }

  @Test func `a value is found in every spelling`() {
    let plain = Array(secret.utf8)
    #expect(ways(plain) == ["as it is"])
    #expect(ways(Array(secret.uppercased().utf8)) == ["as it is"])
    #expect(ways(plain.reversed()) == ["reversed"])
    #expect(ways(secret.utf16.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }).contains("UTF-16LE"))
    #expect(ways(secret.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }).contains("UTF-16BE"))
    #expect(ways(Array(Hex.encode(plain).uppercased().utf8)) == ["hexadecimal"])
    #expect(ways(Array("Zacharias%20Quillfeather".utf8)) == ["percent-encoded"])
    for before in ["", "a", "ab", "abc"] {
      for after in ["", "x", "yz"] {
        let encoded = Data(Array((before + secret + after).utf8)).base64EncodedString()
        #expect(ways(Array(encoded.utf8)) == ["base64"], "\(before) \(after)")
      }
    }
    #expect(ways(Array("Zacharias Quillfeathe and others".utf8)).isEmpty)
  }

  @Test func `a number is found as engines keep it`() {
    let card = "4929123456781234"
    let number = Int64(card)!
    let big = stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: number >> Int64($0)) }
    #expect(ways(big, [card]) == ["binary"])
    #expect(ways(big.reversed(), [card]) == ["binary"])
    #expect(ways([4929, 1234, 5678, 1234].flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }, [card]) == ["numeric"])
    #expect(ways(Array("4929123456781234".utf8), ["4929 1234 5678 1234"]) == ["digits"])
  }

  @Test func `pieces make no difference, and many values are told apart`() {
    let values = (0..<200).map { "planted value number \($0) here" }
    let scan = SecretScan(values)
    let text = Array(values.reversed().joined(separator: "\u{0}").utf8)
    let whole = scan.hits(in: text)
    #expect(Set(whole.map(\.value)) == Set(0..<200) && whole.count == 200)
    for size in [1, 7, 64] {
      var run = SecretScan.Run(scan)
      for start in stride(from: 0, to: text.count, by: size) {
        run.take(Array(text[start..<min(text.count, start + size)]))
      }
      #expect(run.hits == whole)
    }
  }

  @Test func `literals of a schema are found`() {
    let sql = """
      SET client_encoding = 'UTF8';
      -- a dump's remark 'x'
      CREATE TABLE t (a text DEFAULT 'it''s', b text CHECK (b <> E'a\\'b'), "c'd" int CHECK (x < 12345 AND y < 1234), d bigint);
      ALTER TABLE t ALTER d SET DEFAULT nextval('public.s'::regclass);
      CREATE FUNCTION f() AS $x$ SELECT 'in' $x$;
      """
    #expect(SQLLiterals.find(in: sql).map(\.text) == ["it's", "a'b", "12345", " SELECT 'in' "])
    let lite = "CREATE TABLE t(\"a\" TEXT DEFAULT \"Zacharias\" -- was Quill\n, b)"
    #expect(
      SQLLiterals.find(in: lite, place: "table t", names: ["a", "t"]).map(\.text) == ["Zacharias", "-- was Quill"])
  }

  @Test func `a draft speaks of everything, marks what looks like somebody's, and is no policy yet`() throws {
    var shape = StoreShape()
    shape.tables = [
      TableShape(
        "customers", [.init("id", "integer"), .init("contact", "text"), .init("plan", "text")], keys: [["id"]]),
      TableShape("orders", [.init("customer", "integer")], references: [.init(["customer"], to: "customers", ["id"])]),
    ]
    shape.literals = [.init(place: "t", text: "it's \"x\"\n")]
    var draft = PolicyDraft()
    draft.add("ledger", shape, isFiles: false, samples: ["customers.contact": ["a@b.test", "c@d.test"]])
    let text = draft.text(name: "first")
    #expect(
      text.contains("contact: {pseudonym: email}") && text.contains("customer: {pseudonym: customers-id}"), "\(text)")
    #expect(throws: RedactionError.self) { try RedactionPolicy(text, file: "x") }
    let decided = try RedactionPolicy(text.replacing(": decide", with: ": keep"), file: "x")
    #expect(decided.problems(of: "ledger", shape) == [])
  }
}
