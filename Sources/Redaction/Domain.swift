import Core

/// Values that mean the same wherever they stand: one pseudonym each, in every table, key and file.
package struct Domain: Sendable, Equatable {
  package enum Shape: Sendable, Equatable {
    /// Whole numbers below 2^bits, their sign apart; injective.
    case integer(bits: Int)
    /// Digits among anything else, which stays; as many as there were; injective.
    case digits
    /// Letters and digits; so many that two are never the same by chance.
    case text(length: Int)
    case name
    case email
    case uuid
    /// Moved by one number of days for the whole domain: distances and order stay.
    case date(days: Int)
  }

  package var name: String
  package var shape: Shape

  package init(name: String, shape: Shape) { (self.name, self.shape) = (name, shape) }
}

/// Gives pseudonyms of one domain.
package struct Pseudonymizer: Sendable {
  private let domain: Domain
  private let key: PseudonymKey
  private let integers: FeistelCipher?
  private let shiftDays: Int64

  package init(_ domain: Domain, _ key: PseudonymKey) {
    self.domain = domain
    let own = key.derived(for: "domain \(domain.name)")
    self.key = own
    if case .integer(let bits) = domain.shape {
      integers = bits > 1 ? FeistelCipher(own, radix: 2, digits: bits) : nil
    } else {
      integers = nil
    }
    if case .date(let days) = domain.shape {
      // Never none.
      let word = own.code(Array("shift".utf8)).prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      let amount = Int64(word >> 1) % Int64(max(1, days)) + 1
      shiftDays = word & 1 == 0 ? amount : -amount
    } else {
      shiftDays = 0
    }
  }

  /// - Parameter place: For the error; what does not fit is one, and is never cut off.
  package func pseudonym(of value: RowText, at place: String) throws(RedactionError) -> RowText {
    func misfit(_ why: String) -> RedactionError { .doesNotFit(place: place, domain: domain.name, why: why) }
    switch domain.shape {
    case .integer(let bits):
      guard let number = Int64(value.text), String(number) == value.text || value.text.hasPrefix("0") == false else {
        throw misfit("it is not a whole number as one is written")
      }
      guard bits <= 62 || number != .min, let cipher = integers, number.magnitude >> UInt64(bits) == 0 else {
        throw misfit("it has more than \(bits) bits")
      }
      let low = bits - bits / 2
      let halves = cipher.encrypt(
        .init(high: number.magnitude >> UInt64(low), low: number.magnitude & ((1 << UInt64(low)) - 1)))
      let result = Int64(halves.high << UInt64(low) | halves.low)
      return RowText(String(number < 0 ? -result : result))
    case .digits: return RowText(try digits(value.text, misfit))
    case .text(let length): return RowText(word(value, length))
    case .name: return RowText(name(value))
    case .email: return RowText("\(word(value, 16).lowercased())@example.com")
    case .uuid: return RowText(uuid(value))
    case .date: return RowText(try date(value.text, misfit))
    }
  }

  // MARK: Shapes

  private func digits(_ text: String, _ misfit: (String) -> RedactionError) throws(RedactionError) -> String {
    var bytes = Array(text.utf8)
    let places = bytes.indices.filter { (48...57).contains(bytes[$0]) }
    guard !places.isEmpty else { throw misfit("there is no digit in it") }
    guard places.count <= FeistelCipher.longest(radix: 10) else {
      throw misfit("it has more than \(FeistelCipher.longest(radix: 10)) digits")
    }
    let cipher = FeistelCipher(key, radix: 10, digits: places.count)
    let half = places.count / 2
    func number(_ part: ArraySlice<Int>) -> UInt64 { part.reduce(0) { $0 * 10 + UInt64(bytes[$1] - 48) } }
    let result = cipher.encrypt(.init(high: number(places[..<half]), low: number(places[half...])))
    for (part, value) in [(places[..<half], result.high), (places[half...], result.low)] {
      var rest = value
      for place in part.reversed() {
        bytes[place] = 48 + UInt8(rest % 10)
        rest /= 10
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Five bits to a character.
  private func word(_ value: RowText, _ length: Int) -> String {
    var text: [UInt8] = []
    var block: UInt8 = 0
    while text.count < length {
      for byte in key.code([block] + value.bytes) where text.count < length {
        text.append(Self.letters[Int(byte & 31)])
      }
      block += 1
    }
    return String(decoding: text, as: UTF8.self)
  }

  private static let letters = Array("abcdefghijkmnpqrstuvwxyz23456789".utf8)

  /// 3 and 5 syllables of 6 bits: 48 bits.
  private func name(_ value: RowText) -> String {
    let code = key.code(value.bytes)
    let syllables = code.prefix(8).map { byte in
      let (consonant, vowel) = (Int(byte >> 2) % 16, Int(byte & 3))
      return [Self.consonants[consonant], Self.vowels[vowel]]
    }
    func part(_ range: Range<Int>) -> String {
      let letters = syllables[range].flatMap { $0 }
      return String(letters.prefix(1)).uppercased() + String(letters.dropFirst())
    }
    return part(0..<3) + " " + part(3..<8)
  }

  private static let consonants = Array("bdfghjklmnprstvz")
  private static let vowels = Array("aeio")

  private func uuid(_ value: RowText) -> String {
    // The same whether it was written with capitals, or by an engine that writes none.
    var bytes = Array(key.code(Array(value.text.lowercased().utf8)).prefix(16))
    bytes[6] = bytes[6] & 0x0f | 0x80
    bytes[8] = bytes[8] & 0x3f | 0x80
    let hex = Array(Hex.encode(bytes).utf8)
    return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(decoding: hex[$0], as: UTF8.self) }
      .joined(separator: "-")
  }

  /// A date, with whatever time follows it, or seconds or milliseconds of Unix time.
  private func date(_ text: String, _ misfit: (String) -> RedactionError) throws(RedactionError) -> String {
    if let number = Int64(text) {
      let unit: Int64 = number.magnitude < 100_000_000_000 ? 86_400 : 86_400_000
      return String(number + shiftDays * unit)
    }
    let day = text.prefix(10)
    let parts = day.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0].count == 4, parts[1].count == 2, parts[2].count == 2,
      parts.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } }),
      let year = Int64(parts[0]), let month = Int64(parts[1]), let date = Int64(parts[2])
    else { throw misfit("it does not begin with a date such as 2026-11-22") }
    let shifted = civil(daysFromCivil(year, month, date) + shiftDays)
    guard (0...9999).contains(shifted.year) else { throw misfit("it is too far off") }
    func padded(_ value: Int64, _ width: Int) -> String {
      String(repeating: "0", count: max(0, width - String(value).count)) + String(value)
    }
    return "\(padded(shifted.year, 4))-\(padded(shifted.month, 2))-\(padded(shifted.day, 2))" + text.dropFirst(10)
  }
}

/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
private func daysFromCivil(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
  let y = month <= 2 ? year - 1 : year
  let era = (y >= 0 ? y : y - 399) / 400
  let yearOfEra = y - era * 400
  let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
  return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
}

private func civil(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
  let z = days + 719_468
  let era = (z >= 0 ? z : z - 146_096) / 146_097
  let dayOfEra = z - era * 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let mp = (5 * dayOfYear + 2) / 153
  let month = mp < 10 ? mp + 3 : mp - 9
  return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * mp + 2) / 5 + 1)
}

/// A value as every engine would write it: the number 42 in one store and the text `42` in another are one value.
package struct RowText: Sendable, Equatable {
  package var bytes: [UInt8]
  package var text: String { String(decoding: bytes, as: UTF8.self) }
  package init(_ text: String) { bytes = Array(text.utf8) }
  package init(bytes: [UInt8]) { self.bytes = bytes }
}
