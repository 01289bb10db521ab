import Core
import Redaction
import Testing

let testKey = try! PseudonymKey(Secret("a key of a test, thirty-two bytes"))

@Suite struct PseudonymTests {
  @Test(arguments: [(2, 1), (2, 2), (2, 9), (3, 5), (10, 1), (10, 2), (10, 3), (10, 4), (26, 3)] as [(UInt64, Int)])
  func `every value of a small domain is given exactly once, and leads back`(_ radix: UInt64, _ digits: Int) {
    let cipher = FeistelCipher(testKey, radix: radix, digits: digits)
    var seen: Set<FeistelCipher.Halves> = []
    var moved = 0
    for high in 0..<cipher.sizes.high {
      for low in 0..<cipher.sizes.low {
        let value = FeistelCipher.Halves(high: high, low: low)
        let result = cipher.encrypt(value)
        #expect(result.high < cipher.sizes.high && result.low < cipher.sizes.low)
        #expect(cipher.decrypt(result) == value)
        seen.insert(result)
        if result != value { moved += 1 }
      }
    }
    #expect(seen.count == Int(cipher.sizes.high * cipher.sizes.low))
    if seen.count > 50 { #expect(moved > seen.count / 2) }
  }

  @Test func `large domains lead back as well`() {
    let chance = SeededRandomness(seed: 7)
    for (radix, digits) in [(2, 31), (2, 62), (10, 16), (10, FeistelCipher.longest(radix: 10))] as [(UInt64, Int)] {
      let cipher = FeistelCipher(testKey, radix: radix, digits: digits)
      for _ in 0..<500 {
        let value = FeistelCipher.Halves(high: chance.next() % cipher.sizes.high, low: chance.next() % cipher.sizes.low)
        #expect(cipher.decrypt(cipher.encrypt(value)) == value)
      }
    }
    #expect(FeistelCipher.longest(radix: 10) == 36)
  }

  private func pseudonym(_ text: String, _ shape: Domain.Shape, key: PseudonymKey = testKey, name: String = "d") throws
    -> String
  {
    try Pseudonymizer(Domain(name: name, shape: shape), key).pseudonym(of: RowText(text), at: "t.c").text
  }

  @Test func `the same value has one pseudonym, other keys and domains give others`() throws {
    let other = try PseudonymKey(Secret("another key of a test, 32 bytes.."))
    for shape in [Domain.Shape.text(length: 20), .name, .email, .uuid] {
      let first = try pseudonym("Zacharias", shape)
      #expect(try pseudonym("Zacharias", shape) == first)
      #expect(try pseudonym("Zacharias", shape, key: other) != first)
      #expect(try pseudonym("Zacharias", shape, name: "e") != first)
      #expect(try pseudonym("Zachariat", shape) != first)
    }
  }

  @Test func `shapes stay what they are`() throws {
    let card = try pseudonym("4929 1234-5678 1234", .digits)
    #expect(card.count == 19 && card.filter { !$0.isNumber } == " - " && card != "4929 1234-5678 1234")
    let number = try #require(Int64(try pseudonym("42", .integer(bits: 31))))
    #expect(number >= 0 && number < 1 << 31)
    #expect(try pseudonym("-42", .integer(bits: 31)) == "-\(number)")
    #expect(try pseudonym("A@b.test", .email).hasSuffix("@example.com"))
    let uuid = try pseudonym("6F9619FF-8B86-D011-B42D-00C04FC964FF", .uuid)
    #expect(uuid == (try pseudonym("6f9619ff-8b86-d011-b42d-00c04fc964ff", .uuid)) && uuid.count == 36)
    #expect(try pseudonym("x", .text(length: 30)).count == 30)
  }

  @Test func `dates keep their distances, and whatever follows the day`() throws {
    func day(_ text: String) throws -> Int64 {
      let shifted = try pseudonym(text, .date(days: 300))
      #expect(shifted.dropFirst(10) == text.dropFirst(10) && shifted.prefix(10) != text.prefix(10))
      return try #require(Timestamp(String(shifted.prefix(10)) + "T00:00:00Z")).nanoseconds / 86_400_000_000_000
    }
    #expect(try day("2024-03-01 10:00:00+02") - day("2024-02-28") == 2)
    #expect(try day("2023-03-01") - day("2023-02-28") == 1)
    let seconds = try #require(Int64(try pseudonym("1700000000", .date(days: 300))))
    #expect((seconds - 1_700_000_000) % 86_400 == 0 && seconds != 1_700_000_000)
  }

  @Test func `what does not fit is an error, and says nothing of the value`() throws {
    for (text, shape) in [
      ("4294967296", .integer(bits: 31)), ("secret", .integer(bits: 31)), ("007", .integer(bits: 31)),
      ("secret", .digits),
      (String(repeating: "1", count: 37), .digits), ("secret", .date(days: 3)),
    ] as [(String, Domain.Shape)] {
      let error = #expect(throws: RedactionError.self) { try pseudonym(text, shape) }
      #expect(error?.report.description.contains(text) == false)
    }
    #expect(throws: RedactionError.self) { try PseudonymKey(Secret("short")) }
  }
}
