// PTX's text: a module's functions and variables, and a kernel's instructions.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "kernel.h"

namespace emulator {

namespace {

bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

bool word_letter(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '.' || c == '%';
}

std::string trim(const std::string& text) {
    auto begin = text.find_first_not_of(" \t\r\n"), end = text.find_last_not_of(" \t\r\n");
    return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

std::string without_comments(const char* text) {
    std::string out;
    for (const char* at = text; *at != 0;) {
        if (at[0] == '/' && at[1] == '/') {
            while (*at != 0 && *at != '\n') ++at;
        } else if (at[0] == '/' && at[1] == '*') {
            const char* end = std::strstr(at + 2, "*/");
            at = end == nullptr ? at + std::strlen(at) : end + 2;
        } else {
            out += *at++;
        }
    }
    return out;
}

std::vector<std::string> split(const std::string& text, char by) {
    std::vector<std::string> parts;
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find(by, begin)) != std::string::npos; begin = end + 1)
        parts.push_back(trim(text.substr(begin, end - begin)));
    parts.push_back(trim(text.substr(begin)));
    return parts;
}

/// The operands of an instruction: split at commas outside of braces.
std::vector<std::string> operands(const std::string& text) {
    std::vector<std::string> parts(1);
    int depth = 0;
    for (char c : text) {
        depth += (c == '{' || c == '(' || c == '[') - (c == '}' || c == ')' || c == ']');
        if (c == ',' && depth == 0)
            parts.emplace_back();
        else
            parts.back() += c;
    }
    for (std::string& part : parts) part = trim(part);
    if (parts.size() == 1 && parts[0].empty()) parts.clear();
    return parts;
}

struct Variable {
    std::string name;
    unsigned bytes = 0, alignment = 1;
    /// The values of its elements, and the bytes of each.
    unsigned element = 1;
    std::vector<std::string> values;
};

unsigned type_bytes(const std::string& type) {
    if (type == "pred") return 1;
    auto digits = type.find_first_of("0123456789");
    return digits == std::string::npos ? 0 : unsigned(std::atoi(type.c_str() + digits)) / 8;
}

/// Reads `.align 4 .b8 name[12] = {…}` and the like.
Variable variable(const std::string& declaration) {
    Variable found;
    std::string head = declaration, values;
    if (auto equals = declaration.find('='); equals != std::string::npos) {
        head = declaration.substr(0, equals);
        values = declaration.substr(equals + 1);
        values.erase(std::remove_if(values.begin(), values.end(), [](char c) { return c == '{' || c == '}'; }),
                     values.end());
        found.values = split(values, ',');
    }
    unsigned count = 1;
    std::vector<std::string> words;
    for (std::size_t i = 0; i < head.size();) {
        if (head[i] == '[') {
            auto close = head.find(']', i);
            count *= unsigned(std::atoi(head.c_str() + i + 1));
            i = close + 1;
        } else if (word_letter(head[i])) {
            std::size_t begin = i;
            while (i < head.size() && word_letter(head[i])) ++i;
            words.push_back(head.substr(begin, i - begin));
        } else {
            ++i;
        }
    }
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (words[i] == ".align") {
            found.alignment = unsigned(std::atoi(words[++i].c_str()));
        } else if (words[i][0] == '.') {
            if (unsigned bytes = type_bytes(words[i].substr(1)); bytes != 0) found.element = bytes;
        } else {
            found.name = words[i];
        }
    }
    found.bytes = found.element * count;
    found.alignment = std::max(found.alignment, found.element);
    return found;
}

unsigned aligned(unsigned offset, unsigned to) { return (offset + to - 1) / to * to; }

std::uint64_t number(const std::string& text, bool& is_number) {
    is_number = true;
    if (starts(text, "0f") || starts(text, "0F")) return std::strtoull(text.c_str() + 2, nullptr, 16);
    if (starts(text, "0d") || starts(text, "0D")) return std::strtoull(text.c_str() + 2, nullptr, 16);
    char* end = nullptr;
    const char* begin = text.c_str();
    std::uint64_t value = *begin == '-' ? std::uint64_t(std::strtoll(begin, &end, 0)) : std::strtoull(begin, &end, 0);
    if (end == begin || (*end != 0 && *end != 'U')) is_number = false;
    return value;
}

}  // namespace

Module::Module(const char* ptx, Memory& memory) {
    std::string text = without_comments(ptx);
    if (text.find(".version") == std::string::npos) throw Fault("a module that is no PTX");
    std::size_t at = 0;
    auto blank = [&] {
        while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
    };
    while (blank(), at < text.size()) {
        if (text.compare(at, 8, ".version") == 0 || text.compare(at, 7, ".target") == 0 ||
            text.compare(at, 13, ".address_size") == 0) {
            at = std::min(text.find('\n', at), text.size());
            continue;
        }
        // Up to the body of a function, or the end of a variable or a declaration.
        std::size_t begin = at;
        int depth = 0;
        while (at < text.size() &&
               !(depth == 0 && (text[at] == ';' ||
                                (text[at] == '{' && text.substr(begin, at - begin).find('=') == std::string::npos)))) {
            depth += (text[at] == '{') - (text[at] == '}');
            ++at;
        }
        std::string head = trim(text.substr(begin, at - begin));
        if (at >= text.size() || text[at] == ';') {
            ++at;
            if (head.find(".shared") != std::string::npos) {
                shared.push_back(head);
            } else if (head.find(".global") != std::string::npos || head.find(".const") != std::string::npos) {
                Variable found = variable(head);
                std::uint64_t address = memory.allocate(std::max(found.bytes, 1u));
                auto* to = reinterpret_cast<unsigned char*>(address);
                std::memset(to, 0, found.bytes);
                for (std::size_t i = 0; i < found.values.size() && (i + 1) * found.element <= found.bytes; ++i) {
                    bool is_number;
                    std::uint64_t value = number(found.values[i], is_number);
                    std::memcpy(to + i * found.element, &value, found.element);
                }
                variables[found.name] = address;
            }
            continue;
        }
        std::size_t body = ++at;
        for (depth = 1; at < text.size() && depth > 0; ++at) depth += (text[at] == '{') - (text[at] == '}');
        Function function;
        function.body = text.substr(body, at - body - 1);
        function.entry = head.find(".entry") != std::string::npos;
        // `.func (results) name (arguments)` or `.entry name (parameters) .maxntid 256, 1, 1`
        std::vector<std::string> lists;
        std::string name, outside;
        for (std::size_t i = 0; i < head.size();) {
            if (head[i] == '(') {
                auto close = head.find(')', i);
                lists.push_back(head.substr(i + 1, close - i - 1));
                outside += lists.size() == 1 && !function.entry && name.empty() ? " " : " | ";
                i = close + 1;
            } else {
                outside += head[i++];
            }
        }
        std::istringstream words(outside.substr(0, outside.find('|')));
        for (std::string word; words >> word;) {
            if (word[0] != '.') name = word;
        }
        if (auto most = outside.find(".maxntid"); most != std::string::npos) {
            function.most_threads = 1;
            for (const std::string& n :
                 split(outside.substr(most + 8, outside.find_first_of(".\n", most + 9) - most - 8), ',')) {
                if (std::atoi(n.c_str()) > 0) function.most_threads *= unsigned(std::atoi(n.c_str()));
            }
        }
        auto names = [](const std::string& list) {
            std::vector<std::string> found;
            for (const std::string& one : split(list, ','))
                if (!one.empty()) found.push_back(variable(one).name);
            return found;
        };
        if (!function.entry) {
            // With one list, whether results or arguments stands in it is told by what comes first.
            bool results_first = head.find('(') < head.find(name);
            if (results_first && !lists.empty()) function.results = names(lists[0]);
            if (lists.size() > (results_first ? 1u : 0u)) function.arguments = names(lists[results_first ? 1 : 0]);
        } else {
            unsigned offset = 0;
            for (const std::string& one : split(lists.empty() ? "" : lists[0], ',')) {
                if (one.empty()) continue;
                Variable found = variable(one);
                offset = aligned(offset, found.alignment);
                function.arguments.push_back(found.name);
                function.parameters.push_back({offset, found.bytes});
                offset += found.bytes;
            }
        }
        functions[name] = std::move(function);
    }
}

namespace {

/// Decodes one kernel.
class Decoder {
 public:
    Decoder(const Module& module, const Module::Function& function, Kernel& kernel) : module_(module), kernel_(kernel) {
        kernel.parameters = function.parameters;
        kernel.most_threads = function.most_threads;
        for (std::size_t i = 0; i < function.arguments.size(); ++i) {
            names_[function.arguments[i]] = function.parameters[i].offset;
            kernel.parameter_bytes = function.parameters[i].offset + function.parameters[i].bytes;
        }
        for (const std::string& declaration : module.shared) declare(declaration, "");
        body(function.body, "", {});
        // Dynamic shared memory comes behind the static.
        kernel.shared_bytes = aligned(kernel.shared_bytes, 16);
        for (const std::string& name : dynamic_) kernel_.constants.push_back({slot("&" + name), kernel.shared_bytes});
        for (auto [index, label] : branches_) {
            auto found = labels_.find(label);
            if (found == labels_.end()) throw Fault(kernel.name + ": a branch to " + label + ", which is nowhere");
            kernel_.code[index].offset = found->second;
        }
    }

 private:
    /// A function's text. Its own names get a prefix; `bound` are its parameters, and what stands for them at the call.
    void body(const std::string& text, const std::string& prefix, const std::map<std::string, std::string>& bound) {
        std::size_t at = 0;
        while (at < text.size()) {
            char c = text[at];
            if (std::isspace(static_cast<unsigned char>(c)) || c == '{' || c == '}') {
                ++at;
                continue;
            }
            std::size_t end = at;
            int depth = 0;
            while (end < text.size() && !(depth == 0 && (text[end] == ';' || text[end] == ':'))) {
                depth += (text[end] == '{') - (text[end] == '}');
                ++end;
            }
            std::string statement = trim(text.substr(at, end - at));
            at = end + 1;
            if (end < text.size() && text[end] == ':') {
                labels_[prefix + statement] = kernel_.code.size();
            } else if (!statement.empty()) {
                this->statement(statement, prefix, bound);
            }
        }
        labels_[prefix + "the end"] = kernel_.code.size();
    }

    void statement(const std::string& text, const std::string& prefix,
                   const std::map<std::string, std::string>& bound) {
        if (text[0] == '.') {
            declare(text, prefix);
            return;
        }
        Instruction instruction;
        std::string rest = text;
        if (rest[0] == '@') {
            auto end = rest.find_first_of(" \t");
            std::string guard = rest.substr(1, end - 1);
            if (guard[0] == '!') {
                instruction.unless = true;
                guard = guard.substr(1);
            }
            instruction.guard = operand(guard, prefix);
            rest = trim(rest.substr(end));
        }
        auto space = rest.find_first_of(" \t\n");
        std::vector<std::string> mnemonic = split(rest.substr(0, space), '.');
        std::vector<std::string> parts = operands(space == std::string::npos ? "" : trim(rest.substr(space)));
        instruction.text = unsigned(kernel_.texts.size());
        std::string shown = text;
        std::replace(shown.begin(), shown.end(), '\n', ' ');
        kernel_.texts.push_back(shown);
        const std::string name = mnemonic[0];
        if (name == "call") {
            call(parts, prefix, bound);
            return;
        }
        if (name == "bra") {
            instruction.kind = Kind::Branch;
            branches_.push_back({kernel_.code.size(), prefix + parts.at(0)});
        } else if (name == "ret" || name == "exit") {
            instruction.kind = prefix.empty() || name == "exit" ? Kind::Exit : Kind::Branch;
            if (instruction.kind == Kind::Branch) branches_.push_back({kernel_.code.size(), prefix + "the end"});
        } else if (name == "bar" && mnemonic.size() > 1 && mnemonic[1] == "warp") {
            instruction.kind = Kind::Exchange;
            instruction.run = [](Warp&, const Instruction&, Lanes) {};
            instruction.operand[7] = operand(parts.at(0), prefix);
        } else if (name == "bar" || name == "barrier") {
            if (std::find(mnemonic.begin(), mnemonic.end(), "sync") == mnemonic.end()) unknown(text);
            instruction.kind = Kind::Barrier;
        } else if (name == "membar" || name == "fence") {
            return;  // everything is in order here
        } else {
            if ((name == "ld" || name == "st") &&
                std::find(mnemonic.begin(), mnemonic.end(), "param") != mnemonic.end() &&
                passed(instruction, mnemonic, parts, prefix, bound)) {
                kernel_.code.push_back(instruction);
                return;
            }
            if (name == "mov" && parts.size() == 2 && (parts[0][0] == '{' || parts[1][0] == '{'))
                mnemonic.insert(mnemonic.begin() + 1, parts[0][0] == '{' ? "unpack" : "pack");
            instruction.run = find_operation(mnemonic, instruction);
            if (instruction.run == nullptr) unknown(text);
            bool exchange = name == "shfl" || name == "vote";
            int next = 0;
            for (std::string part : parts) {
                std::vector<std::string> elements{part};
                if (part[0] == '{') {
                    elements = split(part.substr(1, part.size() - 2), ',');
                    instruction.vector = std::uint8_t(elements.size());
                } else if (part[0] == '[') {
                    elements = {address(part, instruction)};
                } else if (auto bar = part.find('|'); bar != std::string::npos) {
                    elements = {part.substr(0, bar), part.substr(bar + 1)};
                } else if (name == "shfl" && next == 0) {
                    elements = {part, "%nowhere"};
                }
                for (const std::string& element : elements) {
                    if (next == 8) unknown(text);
                    instruction.operand[next++] = operand(element, prefix);
                }
            }
            if (exchange) {
                instruction.kind = Kind::Exchange;
                std::swap(instruction.operand[7], instruction.operand[next - 1]);
            }
        }
        kernel_.code.push_back(instruction);
    }

    [[noreturn]] void unknown(const std::string& text) const {
        throw Fault(kernel_.name + ": the emulator does not know `" + text + "`");
    }

    void declare(const std::string& text, const std::string& prefix) {
        if (starts(text, ".shared") || starts(text, ".extern .shared")) {
            Variable found = variable(text);
            if (starts(text, ".extern")) {
                dynamic_.push_back(prefix + found.name);
                return;
            }
            kernel_.shared_bytes = aligned(kernel_.shared_bytes, found.alignment);
            names_[prefix + found.name] = kernel_.shared_bytes;
            kernel_.shared_bytes += found.bytes;
        } else if (starts(text, ".local")) {
            Variable found = variable(text);
            kernel_.local_bytes = aligned(kernel_.local_bytes, found.alignment);
            names_[prefix + found.name] = kernel_.local_bytes;
            kernel_.local_bytes = aligned(kernel_.local_bytes + found.bytes, 16);
        }
        // Registers are met where they are used; a call's parameters likewise.
    }

    /// A load or store of a call's parameter or result, as a move between slots. False for a kernel's parameter.
    bool passed(Instruction& instruction, const std::vector<std::string>& mnemonic,
                const std::vector<std::string>& parts, const std::string& prefix,
                const std::map<std::string, std::string>& bound) {
        bool load = mnemonic[0] == "ld";
        std::string place = parts.at(load ? 1 : 0), value = parts.at(load ? 0 : 1);
        place = place.substr(1, place.size() - 2);
        auto plus = place.find('+');
        std::string name = trim(place.substr(0, plus)),
                    offset = plus == std::string::npos ? "0" : place.substr(plus + 1);
        if (name[0] == '%') return false;
        if (prefix.empty() && names_.count(name) != 0) return false;
        auto outer = bound.find(name);
        int passed = slot("pass " + (outer == bound.end() ? prefix + name : outer->second) + "+" + offset);
        instruction.run = find_operation({"mov", "b64"}, instruction);
        instruction.operand[0] = load ? operand(value, prefix) : passed;
        instruction.operand[1] = load ? passed : operand(value, prefix);
        return true;
    }

    /// `call (results), name, (arguments)`: the function's text, here.
    void call(const std::vector<std::string>& parts, const std::string& prefix,
              const std::map<std::string, std::string>& bound) {
        auto list = [](const std::string& text) {
            return text[0] == '(' ? split(text.substr(1, text.size() - 2), ',') : std::vector<std::string>();
        };
        std::size_t at = parts.at(0)[0] == '(' ? 1 : 0;
        if (parts.at(at) == "__assertfail") {
            Instruction instruction;
            instruction.text = unsigned(kernel_.texts.size() - 1);
            instruction.run = [](Warp&, const Instruction&, Lanes) {
                throw Fault("an assertion of the kernel's fails");
            };
            kernel_.code.push_back(instruction);
            return;
        }
        auto found = module_.functions.find(parts.at(at));
        if (found == module_.functions.end() || depth_ > 8) unknown("call " + parts.at(at));
        std::vector<std::string> results = at == 1 ? list(parts[0]) : std::vector<std::string>(),
                                 arguments = parts.size() > at + 1 ? list(parts[at + 1]) : std::vector<std::string>();
        const Module::Function& function = found->second;
        std::map<std::string, std::string> inner;
        auto bind = [&](const std::vector<std::string>& names, const std::vector<std::string>& to) {
            for (std::size_t i = 0; i < names.size() && i < to.size(); ++i) {
                auto outer = bound.find(to[i]);
                inner[names[i]] = outer == bound.end() ? prefix + to[i] : outer->second;
            }
        };
        bind(function.results, results);
        bind(function.arguments, arguments);
        ++depth_;
        body(function.body, prefix + parts[at] + "#" + std::to_string(calls_++) + " ", inner);
        --depth_;
    }

    /// Of `[%rd1+16]`: what stands before the offset, which the instruction takes.
    std::string address(const std::string& text, Instruction& instruction) const {
        std::string inside = trim(text.substr(1, text.size() - 2));
        auto sign = inside.find_first_of("+-", 1);
        if (sign == std::string::npos) return inside;
        instruction.offset = std::strtoll(inside.c_str() + sign + (inside[sign] == '+'), nullptr, 0);
        return trim(inside.substr(0, sign));
    }

    int slot(const std::string& name) {
        auto [found, fresh] = slots_.try_emplace(name, int(kernel_.slots));
        if (fresh) ++kernel_.slots;
        return found->second;
    }

    int operand(const std::string& text, const std::string& prefix) {
        static const std::map<std::string, Special> SPECIALS = {
            {"%tid.x", Special::TidX},       {"%tid.y", Special::TidY},       {"%tid.z", Special::TidZ},
            {"%ntid.x", Special::NtidX},     {"%ntid.y", Special::NtidY},     {"%ntid.z", Special::NtidZ},
            {"%ctaid.x", Special::CtaidX},   {"%ctaid.y", Special::CtaidY},   {"%ctaid.z", Special::CtaidZ},
            {"%nctaid.x", Special::NctaidX}, {"%nctaid.y", Special::NctaidY}, {"%nctaid.z", Special::NctaidZ},
            {"%laneid", Special::Lane}};
        if (auto special = SPECIALS.find(text); special != SPECIALS.end()) {
            bool fresh = slots_.count(text) == 0;
            int found = slot(text);
            if (fresh) kernel_.specials.push_back({found, special->second});
            return found;
        }
        bool is_number;
        std::uint64_t value = number(text, is_number);
        if (is_number) return constant(text, value);
        // The innermost name there is.
        for (const std::string& name : {prefix + text, text}) {
            if (auto found = names_.find(name); found != names_.end()) return constant("=" + name, found->second);
            if (std::find(dynamic_.begin(), dynamic_.end(), name) != dynamic_.end()) return slot("&" + name);
        }
        if (auto found = module_.variables.find(text); found != module_.variables.end())
            return constant("=" + text, found->second);
        return slot(prefix + text);
    }

    int constant(const std::string& name, std::uint64_t value) {
        bool fresh = slots_.count(name) == 0;
        int found = slot(name);
        if (fresh) kernel_.constants.push_back({found, value});
        return found;
    }

    const Module& module_;
    Kernel& kernel_;
    std::map<std::string, int> slots_;
    /// Offsets of what has a name in shared or local memory, or is a parameter.
    std::map<std::string, std::uint64_t> names_;
    std::vector<std::string> dynamic_;
    std::map<std::string, std::size_t> labels_;
    std::vector<std::pair<std::size_t, std::string>> branches_;
    unsigned calls_ = 0, depth_ = 0;
};

}  // namespace

const Kernel* Module::kernel(const std::string& name) {
    if (auto known = kernels_.find(name); known != kernels_.end()) return &known->second;
    auto function = functions.find(name);
    if (function == functions.end() || !function->second.entry) return nullptr;
    Kernel kernel;
    kernel.name = name;
    Decoder(*this, function->second, kernel);
    return &(kernels_[name] = std::move(kernel));
}

}  // namespace emulator
